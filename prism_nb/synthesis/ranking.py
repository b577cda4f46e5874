"""Orders in which a class's real images are taken: by a network's loss, as a coreset, as crops.

Rankings score whole classes, so each is made once per process and not once per unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import Recipe
from prism_nb.core.units import unit_seed
from prism_nb.data.augment import AugParams, Box, augment, sample_crop
from prism_nb.data.dataset import ImageDataset
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.phases import resize

_BATCH_SIZE = 256  # images per forward pass of the scorer
_SQUARE = (1.0, 1.0)
Crop = tuple[int, Box]  # index of a training image, and a box in it


@dataclass(frozen=True)
class Candidates:
    """The training images of a class among which a network chooses."""

    dataset: ImageDataset  # the real images
    scorer: Teacher  # the network; its loss is the cross-entropy with the class
    class_index: int
    most: int | None  # images to score, drawn at random if the class has more; None: all
    seed: int  # seed of all draws

    @property
    def indices(self) -> list[int]:
        """Indices in the training split, ascending."""
        return subsample(self.dataset, self.class_index, self.most, self.seed)

    def outputs(self, images: Iterable[Tensor], *, features: bool = False) -> Tensor:
        """Return logits, or penultimate features, of batches of canonical images on the CPU."""
        device, parts = next(self.scorer.parameters()).device, list[Tensor]()
        with torch.no_grad():
            for batch in images:
                x = batch.to(device)
                parts.append(self.scorer.features_and_logits(x)[0] if features else self.scorer(x))
        return torch.cat(parts).cpu()

    def losses(self, images: Iterable[Tensor]) -> np.ndarray:
        """Return the losses of batches of canonical images, float32 [n]."""
        logits = self.outputs(images)
        target = torch.full((len(logits),), self.class_index)
        found: np.ndarray = functional.cross_entropy(logits, target, reduction="none").numpy()
        return found


def subsample(dataset: ImageDataset, class_index: int, most: int | None, seed: int) -> list[int]:
    """Return indices of a class's training images, `most` drawn at random if it has more."""
    indices = dataset.class_indices("train", class_index)
    if most is not None and len(indices) > most:
        rng = np.random.default_rng(unit_seed(seed, "scored", class_index))
        indices = np.sort(rng.permutation(indices)[:most])
    return [int(index) for index in indices]


@lru_cache(maxsize=4096)
def rank_images(among: Candidates, kind: str, count: int) -> tuple[int, ...]:
    """Return indices of training images in the order in which an `init` takes them.

    Args:
        among: The images to choose from.
        kind: `mosaic`: the lowest loss first; `real_median`: the nearest to the median loss first,
            counted in ranks, the lower loss on ties (DELT); `el2n`: the lowest score first; or a
            key of `GREEDY`.
        count: Images to choose, at least.

    Raises:
        UsageError: Features are needed, and the teacher has no linear head.
    """
    indices, dataset, greedy = among.indices, among.dataset, GREEDY.get(kind)
    images = (dataset.normalize(dataset.images("train", batch)) for batch in _batches(indices))
    if greedy:
        rows: Sequence[int] = greedy(among.outputs(images, features=True).numpy(), count)
    elif kind == "el2n":
        scores = el2n_scores(among.outputs(images).numpy(), among.class_index)
        rows = np.argsort(scores, kind="stable").tolist()
    else:
        rows = np.argsort(among.losses(images), kind="stable").tolist()
    if kind == "real_median":
        from_middle = np.abs(np.arange(len(rows)) - (len(rows) - 1) / 2)
        rows = [rows[rank] for rank in np.argsort(from_middle, kind="stable")]
    return tuple(indices[row] for row in rows)


# -- coresets --------------------------------------------------------------------------------


def el2n_scores(logits: np.ndarray, class_index: int) -> np.ndarray:
    """Return each image's error, ||softmax(logits) - onehot||_2, float64 [n].

    The error of the true class is the sum of the other probabilities, which has digits left where p
    rounds to 1 (Paul et al., Deep Learning on a Data Diet, NeurIPS 2021). Logits are those of the
    dataset's classes [n, classes], for images of one class.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    others = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    others[:, class_index] = 0
    scores: np.ndarray = np.sqrt(others.sum(axis=1) ** 2 + (others**2).sum(axis=1))
    return scores


def herding(features: np.ndarray, count: int) -> list[int]:
    """Choose images whose mean feature stays nearest to that of all, one after another.

    The k-th is argmin over those left of ||mean - (sum of the chosen + its own) / k|| (Welling,
    ICML 2009; Rebuffi et al., iCaRL, CVPR 2017), without normalization of the features. Features
    are [n, d]; `count` is at most n.

    Returns:
        Rows of the images, in the order of choice; the first of those that are equally near.
    """
    features = features.astype(np.float64)
    mean, total, chosen = features.mean(axis=0), np.zeros(features.shape[1]), list[int]()
    for k in range(1, count + 1):
        gaps = np.linalg.norm(mean - (total + features) / k, axis=1)
        gaps[chosen] = np.inf
        chosen.append(int(gaps.argmin()))
        total += features[chosen[-1]]
    return chosen


def k_center(features: np.ndarray, count: int) -> list[int]:
    """Choose the image nearest to the mean, then always the one farthest from those chosen.

    Greedy k-centre (Sener & Savarese, ICLR 2018); arguments and result as of `herding`.
    """
    features, chosen = features.astype(np.float64), herding(features, 1)
    nearest = np.full(len(features), np.inf)
    while len(chosen) < count:
        gaps = np.linalg.norm(features - features[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, gaps)
        nearest[chosen] = -1  # features of two images may be equal
        chosen.append(int(nearest.argmax()))
    return chosen


GREEDY = {"herding": herding, "k_center": k_center}  # by `init`; they take features


# -- crops and mosaics -----------------------------------------------------------------------


@lru_cache(maxsize=4096)
def lowest_loss_crops(
    among: Candidates, *, tries: int, crop_min: float, side: int
) -> tuple[Crop, ...]:
    """Return the best crop of each image, the lowest loss first (RDED).

    Args:
        among: The images.
        tries: Random square crops per image, of which the one of lowest loss is kept.
        crop_min: Smallest crop, as a share of the image's area in (0, 1].
        side: Side of a crop in the mosaic, in pixels; the loss is that of this resolution.
    """
    dataset, size = among.dataset, among.dataset.image_size
    generator = torch.Generator().manual_seed(unit_seed(among.seed, "crops", among.class_index))
    crops = [
        (index, sample_crop(size, crop_min, generator, ratios=_SQUARE))
        for index in among.indices
        for _ in range(tries)
    ]
    losses = among.losses(
        resize(crop_images(dataset, some, side), size) for some in _batches(crops)
    )
    best = losses.reshape(-1, tries).argmin(1) + np.arange(0, len(losses), tries)
    return tuple(crops[int(row)] for row in best[np.argsort(losses[best], kind="stable")])


def class_patches(recipe: Recipe, among: Candidates) -> tuple[tuple[Crop, ...], ...]:
    """Return the crops of all mosaics of a class, the lowest loss first."""
    size = among.dataset.image_size
    grid, whole = recipe.grid(size), (0, 0, size, size)
    if recipe.init == "mosaic":
        crops = tuple((index, whole) for index in rank_images(among, "mosaic", 0))
    else:
        options = {"tries": recipe.crops_per_image, "crop_min": recipe.crop_min}
        crops = lowest_loss_crops(among, **options, side=size // grid)
    return tuple(crops[k : k + grid**2] for k in range(0, len(crops) - grid**2 + 1, grid**2))


def crop_images(dataset: ImageDataset, crops: Sequence[Crop], side: int) -> Tensor:
    """Return crops of training images, canonical [n, 3, side, side]."""
    indices, rows = np.unique([index for index, _ in crops], return_inverse=True)
    # An image with several crops is decoded once.
    images = dataset.normalize(dataset.images("train", indices.tolist()))[torch.from_numpy(rows)]
    resized = augment(images, [AugParams(box) for _, box in crops])
    if side == dataset.image_size:
        return resized
    return functional.interpolate(resized, size=(side, side), mode="bilinear", antialias=True)


def mosaic(dataset: ImageDataset, crops: Sequence[Crop], grid: int) -> Tensor:
    """Return grid x grid crops as one canonical image [3, S, S], in reading order."""
    tiles = crop_images(dataset, crops, dataset.image_size // grid)
    rows = [torch.cat(list(row), dim=-1) for row in tiles.split(grid)]
    return torch.cat(rows, dim=-2)


def _batches(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + _BATCH_SIZE] for start in range(0, len(items), _BATCH_SIZE)]
