"""Real images and crops in the order of how hard a network finds them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.data import ImageDataset
from prism_nb.data.crops import Box, draw_crop
from prism_nb.synthesis.augment import View, apply_views
from prism_nb.teachers.teacher import Teacher
from prism_nb.units import unit_seed

_BATCH = 256
_SQUARE = (1.0, 1.0)
Crop = tuple[int, Box]  # place of a training image, and what is cut out of it

# Both rankings look at whole classes, so each is made once per process and not once per unit.


@lru_cache(maxsize=4096)
def median_difficulty(
    dataset: ImageDataset, scorer: Teacher, class_index: int, most: int, seed: int
) -> tuple[int, ...]:
    """Order a class's training images by how near they are to its median difficulty (DELT).

    Difficulty is the scorer's cross-entropy with the true class.

    Args:
        dataset: The real images.
        scorer: The network that judges.
        class_index: The class.
        most: How many of its images are looked at, chosen at random if it has more.
        seed: Decides which.

    Returns:
        Places in the training split, the most ordinary first.
    """
    places = _some(dataset, class_index, most, seed)
    parts = [places[start : start + _BATCH] for start in range(0, len(places), _BATCH)]
    images = (dataset.canonical(dataset.images("train", part)) for part in parts)
    losses = np.concatenate([_losses(scorer, part, class_index) for part in images])
    ranked = np.argsort(losses, kind="stable")
    middle = (len(ranked) - 1) / 2
    outward = np.argsort(np.abs(np.arange(len(ranked)) - middle), kind="stable")
    return tuple(places[int(ranked[place])] for place in outward)


@lru_cache(maxsize=4096)
def easiest_crops(
    dataset: ImageDataset,
    scorer: Teacher,
    class_index: int,
    *,
    most: int,
    tries: int,
    crop_min: float,
    side: int,
    seed: int,
) -> tuple[Crop, ...]:
    """Order the best crop of each of a class's images by how well the scorer knows it (RDED).

    Args:
        dataset: The real images.
        scorer: The network that judges, at the size that it was trained for.
        class_index: The class.
        most: How many of its images are looked at, chosen at random if it has more.
        tries: Random square crops per image, of which the one of least cross-entropy is kept.
        crop_min: Smallest share of the area that a crop may have, in (0, 1].
        side: Side that a crop has in the end, in pixels; the scorer sees it at that resolution.
        seed: Decides all draws.

    Returns:
        One crop per image, the easiest first.
    """
    places = _some(dataset, class_index, most, seed)
    generator = torch.Generator().manual_seed(unit_seed(seed, "crops", class_index))
    crops = [
        (place, draw_crop(dataset.image_size, crop_min, generator, ratios=_SQUARE))
        for place in places
        for _ in range(tries)
    ]
    parts = [crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)]
    views = (_enlarged(cut(dataset, part, side), dataset.image_size) for part in parts)
    losses = np.concatenate([_losses(scorer, view, class_index) for view in views])
    best = losses.reshape(-1, tries).argmin(1) + tries * np.arange(len(places))
    return tuple(crops[int(place)] for place in best[np.argsort(losses[best], kind="stable")])


def cut(dataset: ImageDataset, crops: list[Crop] | tuple[Crop, ...], side: int) -> Tensor:
    """Return crops of training images as canonical images [n, 3, side, side]."""
    places, rows = np.unique([place for place, _ in crops], return_inverse=True)
    # An image that gives several crops is decoded once.
    images = dataset.canonical(dataset.images("train", places.tolist()))[torch.from_numpy(rows)]
    whole = apply_views(images, [View(box) for _, box in crops])
    if side == dataset.image_size:
        return whole
    return functional.interpolate(whole, size=(side, side), mode="bilinear", antialias=True)


def tile(dataset: ImageDataset, crops: tuple[Crop, ...], grid: int) -> Tensor:
    """Lay grid x grid crops out as one canonical image [3, S, S]."""
    tiles = cut(dataset, crops, dataset.image_size // grid)
    rows = [torch.cat(list(row), dim=-1) for row in tiles.split(grid)]
    return torch.cat(rows, dim=-2)


def _some(dataset: ImageDataset, class_index: int, most: int, seed: int) -> list[int]:
    places = dataset.of_class("train", class_index)
    if len(places) > most:
        chosen = np.random.default_rng(unit_seed(seed, "scored", class_index))
        places = np.sort(chosen.permutation(places)[:most])
    return [int(place) for place in places]


def _enlarged(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear")


@torch.no_grad()
def _losses(scorer: Teacher, images: Tensor, class_index: int) -> np.ndarray:
    """Return each image's cross-entropy with the class, float32 [n]."""
    device = next(scorer.parameters()).device
    target = torch.full((len(images),), class_index, device=device)
    losses: np.ndarray = (
        functional.cross_entropy(scorer(images.to(device)), target, reduction="none").cpu().numpy()
    )
    return losses
