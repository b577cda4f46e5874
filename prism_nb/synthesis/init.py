"""Initial images: noise, or real training images chosen in one way or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.core.units import ImageBatch, Unit, unit_seed
from prism_nb.data.augment import AugParams, Box, augment, sample_crop
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import random_real
from prism_nb.data.registry import open_dataset
from prism_nb.models.pool import load_teacher
from prism_nb.models.teacher import Teacher


def initial_images(
    recipe: Recipe,
    batch: ImageBatch,
    dataset: ImageDataset,
    *,
    scorer: Teacher | None = None,
    seed: int,
    generator: torch.Generator,
) -> Tensor:
    """Return what a unit starts from, canonical [N, 3, S, S] on the CPU.

    Slot k of a class is, by `recipe.init`:
        noise: standard normal.
        real: its k-th training image in file order (published PRISM).
        real_random: the k-th of a shuffle of the class.
        real_median: the k-th nearest to the class's median difficulty (DELT).
        patches: made of the k-th easiest crops of its images (RDED).

    Args:
        recipe: The method.
        batch: The unit's images.
        dataset: The real images.
        scorer: Judges how hard a real image is, where the recipe asks for it.
        seed: The replicate's; it decides what is random, whatever the batches are.
        generator: The unit's generator; it decides `noise`.
    """
    members = batch.members()
    if recipe.init == "noise":
        size = dataset.image_size
        return torch.randn(len(members), 3, size, size, generator=generator)
    if recipe.init == "real_random":
        return dataset.normalize(random_real(dataset, members, seed=seed, tag="initial"))
    if recipe.init == "real":
        places = [int(dataset.class_indices("train", c)[image_index]) for c, image_index in members]
        return dataset.normalize(dataset.images("train", places))
    if scorer is None:
        raise ValueError(f"init {recipe.init!r} needs a network that judges the real images")
    return _scored(recipe, members, dataset, scorer, seed)


def _scored(
    recipe: Recipe,
    members: list[tuple[int, int]],
    dataset: ImageDataset,
    scorer: Teacher,
    seed: int,
) -> Tensor:
    classes = dict.fromkeys(c for c, _ in members)
    if recipe.init == "real_median":
        order = {
            c: rank_by_median_loss(dataset, scorer, c, recipe.max_scored_images, seed)
            for c in classes
        }
        return dataset.normalize(
            dataset.images("train", [order[c][image_index] for c, image_index in members])
        )
    grid = recipe.grid(dataset.image_size)
    crops = {
        c: lowest_loss_crops(
            dataset,
            scorer,
            c,
            most=recipe.max_scored_images,
            tries=recipe.crops_per_image,
            crop_min=recipe.crop_min,
            side=dataset.image_size // grid,
            seed=seed,
        )
        for c in classes
    }
    return torch.stack(
        [
            mosaic(dataset, crops[c][image_index * grid**2 : (image_index + 1) * grid**2], grid)
            for c, image_index in members
        ]
    )


_BATCH = 256
_SQUARE = (1.0, 1.0)
Crop = tuple[int, Box]  # place of a training image, and what is cut out of it

# Both rankings look at whole classes, so each is made once per process and not once per unit.


@lru_cache(maxsize=4096)
def rank_by_median_loss(
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
    images = (dataset.normalize(dataset.images("train", part)) for part in parts)
    losses = np.concatenate([_losses(scorer, part, class_index) for part in images])
    ranked = np.argsort(losses, kind="stable")
    middle = (len(ranked) - 1) / 2
    outward = np.argsort(np.abs(np.arange(len(ranked)) - middle), kind="stable")
    return tuple(places[int(ranked[place])] for place in outward)


@lru_cache(maxsize=4096)
def lowest_loss_crops(
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
        (place, sample_crop(dataset.image_size, crop_min, generator, ratios=_SQUARE))
        for place in places
        for _ in range(tries)
    ]
    parts = [crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)]
    views = (_enlarged(crop_images(dataset, part, side), dataset.image_size) for part in parts)
    losses = np.concatenate([_losses(scorer, view, class_index) for view in views])
    best = losses.reshape(-1, tries).argmin(1) + tries * np.arange(len(places))
    return tuple(crops[int(place)] for place in best[np.argsort(losses[best], kind="stable")])


def crop_images(dataset: ImageDataset, crops: list[Crop] | tuple[Crop, ...], side: int) -> Tensor:
    """Return crops of training images as canonical images [n, 3, side, side]."""
    places, rows = np.unique([place for place, _ in crops], return_inverse=True)
    # An image that gives several crops is decoded once.
    images = dataset.normalize(dataset.images("train", places.tolist()))[torch.from_numpy(rows)]
    whole = augment(images, [AugParams(box) for _, box in crops])
    if side == dataset.image_size:
        return whole
    return functional.interpolate(whole, size=(side, side), mode="bilinear", antialias=True)


def mosaic(dataset: ImageDataset, crops: tuple[Crop, ...], grid: int) -> Tensor:
    """Lay grid x grid crops out as one canonical image [3, S, S]."""
    tiles = crop_images(dataset, crops, dataset.image_size // grid)
    rows = [torch.cat(list(row), dim=-1) for row in tiles.split(grid)]
    return torch.cat(rows, dim=-2)


def _some(dataset: ImageDataset, class_index: int, most: int, seed: int) -> list[int]:
    places = dataset.class_indices("train", class_index)
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


@dataclass(frozen=True)
class UnitInit:
    """A unit before its first step.

    Attributes:
        recipe: The method, as it treats the unit's slots.
        seed: The unit's own.
        generator: Seeded with it; the initial images have drawn from it what they need.
        images: The initial images, canonical [N, 3, S, S] on the CPU.
    """

    recipe: Recipe
    seed: int
    generator: torch.Generator
    images: Tensor


def prepare_unit(run: Run, unit: Unit, images: ImageBatch | None = None) -> UnitInit:
    """Return what a unit begins from; the same at every call.

    Args:
        run: The run.
        unit: A unit of a method whose images are made here, not imported.
        images: Which of its images are wanted; all of them if None. Fewer are the same ones only
            where the recipe does not begin with noise, which is drawn for a batch at once.

    Raises:
        PrismError: The recipe has the primary judge real images, and it is not trained.
    """
    settings, method, batch = run.settings, unit.params["method"], batch_of(unit)
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    seed = unit_seed(
        settings.replicate_seed, "synthesis", method, *batch.image_indices, *batch.classes
    )
    generator = torch.Generator().manual_seed(seed)
    initial = initial_images(
        recipe,
        images or batch,
        open_dataset(settings),
        scorer=load_teacher(run, settings.primary) if recipe.needs_scorer else None,
        seed=settings.replicate_seed,
        generator=generator,
    )
    return UnitInit(recipe, seed, generator, initial)


def initial_images_uint8(run: Run, method: str, members: Sequence[tuple[int, int]]) -> Tensor:
    """Return what images of a method began from, without making them again.

    Args:
        run: The run.
        method: A method whose images are made here, not imported.
        members: (class, slot) of each image.

    Returns:
        uint8 [n, 3, S, S]; what 8-bit pixels cannot show of noise is cut off.

    Raises:
        PrismError: As `begin`.
    """
    dataset, wanted = open_dataset(run.settings), set(members)
    found: dict[tuple[int, int], Tensor] = {}
    for unit in method_units(run, method, len(dataset.classes)):
        mine = [member for member in batch_of(unit).members() if member in wanted]
        found |= dict(zip(mine, _begun(run, unit, mine), strict=True))
    return dataset.to_uint8(torch.stack([found[member] for member in members]))


def _begun(run: Run, unit: Unit, members: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return some of a unit's initial images; only noise is drawn for its whole batch."""
    if not members:
        return []
    batch = batch_of(unit)
    if run.settings.recipe_of(unit.params["method"]).init == "noise":
        every = dict(zip(batch.members(), prepare_unit(run, unit).images, strict=True))
        return [every[member] for member in members]
    alone = [ImageBatch((image_index, image_index + 1), (c, c + 1)) for c, image_index in members]
    return [prepare_unit(run, unit, one).images[0] for one in alone]
