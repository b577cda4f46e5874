"""Orders in which a class's real images are taken: by a network's loss, as a coreset, as crops.

Rankings score whole classes, so each is made once per process and not once per unit.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from prism_nb.synthesis.coresets import GREEDY, el2n_scores

_BATCH_SIZE = 256  # images per forward pass of the scorer
_SQUARE = (1.0, 1.0)
Crop = tuple[int, Box]  # index of a training image, and a box in it


@lru_cache(maxsize=4096)
def rank_by_median_loss(
    dataset: ImageDataset, scorer: Teacher, class_index: int, most: int | None, seed: int
) -> tuple[int, ...]:
    """Return indices of a class's training images, the nearest to its median loss first (DELT).

    Distances are counted in ranks, the lower loss first on ties.

    Args:
        dataset: The real images.
        scorer: Teacher whose cross-entropy with the true class is the loss.
        class_index: The class.
        most: Images to score, chosen at random if the class has more; None: all.
        seed: Seed of that choice.
    """
    ranked = rank_by_loss(dataset, scorer, class_index, most, seed)
    middle = (len(ranked) - 1) / 2
    outward = np.argsort(np.abs(np.arange(len(ranked)) - middle), kind="stable")
    return tuple(ranked[rank] for rank in outward)


@lru_cache(maxsize=4096)
def rank_by_loss(
    dataset: ImageDataset, scorer: Teacher, class_index: int, most: int | None, seed: int
) -> tuple[int, ...]:
    """Return indices of a class's training images, the lowest loss first.

    Arguments are those of `rank_by_median_loss`.
    """
    indices = subsample(dataset, class_index, most, seed)
    images = (dataset.normalize(dataset.images("train", batch)) for batch in _batches(indices))
    losses = np.concatenate([_cross_entropy(scorer, batch, class_index) for batch in images])
    return tuple(indices[row] for row in np.argsort(losses, kind="stable"))


@lru_cache(maxsize=4096)
def coreset_indices(
    dataset: ImageDataset,
    scorer: Teacher,
    class_index: int,
    *,
    kind: str,
    count: int,
    most: int | None,
    seed: int,
) -> tuple[int, ...]:
    """Return indices of a class's training images, in the order in which a coreset takes them.

    Args:
        dataset: The real images.
        scorer: Teacher whose logits (el2n), or else penultimate features, choose the images.
        class_index: The class.
        kind: `el2n`: the lowest score first; or a key of `GREEDY`.
        count: Images to choose.
        most: Images to choose from, drawn at random if the class has more; None: all.
        seed: Seed of that draw.

    Raises:
        UsageError: Features are needed, and the teacher has no linear head.
    """
    indices, device = subsample(dataset, class_index, most, seed), next(scorer.parameters()).device
    greedy, outputs = GREEDY.get(kind), list[np.ndarray]()
    for batch in _batches(indices):
        images = dataset.normalize(dataset.images("train", batch).to(device))
        with torch.no_grad():
            found = scorer.features_and_logits(images)[0] if greedy else scorer(images)
        outputs.append(found.cpu().numpy())
    whole = np.concatenate(outputs)
    if greedy:
        return tuple(indices[row] for row in greedy(whole, count))
    scores = el2n_scores(whole, class_index)
    return tuple(indices[row] for row in np.argsort(scores, kind="stable")[:count])


@lru_cache(maxsize=4096)
def lowest_loss_crops(
    dataset: ImageDataset,
    scorer: Teacher,
    class_index: int,
    *,
    most: int | None,
    tries: int,
    crop_min: float,
    side: int,
    seed: int,
) -> tuple[Crop, ...]:
    """Return the best crop of each training image of a class, the lowest loss first (RDED).

    Args:
        dataset: The real images.
        scorer: Teacher whose cross-entropy with the true class is the loss.
        class_index: The class.
        most: Images to score, chosen at random if the class has more; None: all.
        tries: Random square crops per image, of which the one of lowest loss is kept.
        crop_min: Smallest crop, as a share of the image's area in (0, 1].
        side: Side of a crop in the mosaic, in pixels; the loss is that of this resolution.
        seed: Seed of all draws.
    """
    indices = subsample(dataset, class_index, most, seed)
    generator = torch.Generator().manual_seed(unit_seed(seed, "crops", class_index))
    crops = [
        (index, sample_crop(dataset.image_size, crop_min, generator, ratios=_SQUARE))
        for index in indices
        for _ in range(tries)
    ]
    size = dataset.image_size
    images = (_upsample(crop_images(dataset, batch, side), size) for batch in _batches(crops))
    losses = np.concatenate([_cross_entropy(scorer, batch, class_index) for batch in images])
    best = losses.reshape(-1, tries).argmin(1) + tries * np.arange(len(indices))
    return tuple(crops[int(row)] for row in best[np.argsort(losses[best], kind="stable")])


def class_patches(
    recipe: Recipe, dataset: ImageDataset, scorer: Teacher, class_index: int, seed: int
) -> tuple[tuple[Crop, ...], ...]:
    """Return the crops of all mosaics of a class's scored images, the lowest loss first."""
    size, most = dataset.image_size, recipe.max_scored_images
    tiles, whole = recipe.grid(size) ** 2, (0, 0, size, size)
    if recipe.init == "mosaic":
        ranked = rank_by_loss(dataset, scorer, class_index, most, seed)
        crops: tuple[Crop, ...] = tuple((index, whole) for index in ranked)
    else:
        crops = lowest_loss_crops(
            dataset,
            scorer,
            class_index,
            most=most,
            tries=recipe.crops_per_image,
            crop_min=recipe.crop_min,
            side=size // recipe.grid(size),
            seed=seed,
        )
    return tuple(crops[k * tiles : (k + 1) * tiles] for k in range(len(crops) // tiles))


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


def subsample(dataset: ImageDataset, class_index: int, most: int | None, seed: int) -> list[int]:
    """Return indices of a class's training images, `most` drawn at random if it has more."""
    indices = dataset.class_indices("train", class_index)
    if most is not None and len(indices) > most:
        rng = np.random.default_rng(unit_seed(seed, "scored", class_index))
        indices = np.sort(rng.permutation(indices)[:most])
    return [int(index) for index in indices]


def _batches(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + _BATCH_SIZE] for start in range(0, len(items), _BATCH_SIZE)]


def _upsample(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear")


@torch.no_grad()
def _cross_entropy(scorer: Teacher, images: Tensor, class_index: int) -> np.ndarray:
    """Return each image's cross-entropy with the class, float32 [n]."""
    device = next(scorer.parameters()).device
    target = torch.full((len(images),), class_index, device=device)
    logits = scorer(images.to(device))
    losses: np.ndarray = functional.cross_entropy(logits, target, reduction="none").cpu().numpy()
    return losses
