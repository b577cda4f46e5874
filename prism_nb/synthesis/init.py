"""Initial images of a unit: noise, or real training images chosen in one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.core.units import ImageBatch, Unit, unit_seed
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import random_real
from prism_nb.data.registry import open_dataset
from prism_nb.models.forgetting import forgetting_events
from prism_nb.models.pool import load_groups, load_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.ranking import (
    Candidates,
    class_patches,
    crop_images,
    mosaic,
    rank_images,
    subsample,
)

Order = Callable[[int], Sequence[Any]]  # from a class to training images, or crops of mosaics


@dataclass(frozen=True)
class UnitInit:
    """A unit before its first step."""

    recipe: Recipe  # the method, for the unit's image indices
    seed: int  # the unit's seed
    # CPU generator seeded with it, after the draws of the initial images
    generator: torch.Generator
    images: Tensor  # initial images, canonical [N, 3, S, S] on the CPU


def prepare_unit(run: Run, unit: Unit, part: ImageBatch | None = None) -> UnitInit:
    """Return the initial state of a unit; every call gives the same.

    The method makes its images here (not imported). `part` names some of the unit's images, all
    where None; only noise depends on the others.

    Raises:
        PrismError: The recipe ranks real images by networks that are not trained.
    """
    settings, method, batch = run.settings, unit.params["method"], batch_of(unit)
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    key = (*batch.image_indices, *batch.classes)
    seed = unit_seed(settings.replicate_seed, "synthesis", method, *key)
    generator = torch.Generator().manual_seed(seed)
    images = initial_images(
        recipe,
        part or batch,
        open_dataset(settings),
        _order(run, recipe, method),
        seed=settings.replicate_seed,
        generator=generator,
    )
    return UnitInit(recipe, seed, generator, images)


def real_tiles(run: Run, unit: Unit) -> Tensor:
    """Return the real images behind the tiles of a unit's initial images, each in full size.

    Returns:
        Canonical [N, grid * grid, 3, S, S] on the CPU, those of an image in reading order.
    """
    method, dataset = unit.params["method"], open_dataset(run.settings)
    order = _order(run, run.settings.recipe_of(method), method)
    crops = [order(c)[k] for c, k in batch_of(unit).members()]
    return torch.stack([crop_images(dataset, tiles, dataset.image_size) for tiles in crops])


def initial_images_uint8(run: Run, method: str, members: Sequence[tuple[int, int]]) -> Tensor:
    """Return initial images of a method, given as (class, index), as pixels, uint8 [n, 3, S, S].

    Raises:
        PrismError: As `prepare_unit`.
    """
    dataset, wanted = open_dataset(run.settings), set(members)
    found: dict[tuple[int, int], Tensor] = {}
    for unit in method_units(run, method, len(dataset.classes)):
        batch = batch_of(unit)
        own = [member for member in batch.members() if member in wanted]
        if own and run.settings.recipe_of(method).init == "noise":
            found |= dict(zip(batch.members(), prepare_unit(run, unit).images, strict=True))
            continue
        for c, index in own:
            part = ImageBatch((index, index + 1), (c, c + 1))
            found[c, index] = prepare_unit(run, unit, part).images[0]
    return dataset.to_uint8(torch.stack([found[member] for member in members]))


def initial_images(
    recipe: Recipe,
    batch: ImageBatch,
    dataset: ImageDataset,
    order: Order,
    *,
    seed: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the initial images of a batch, canonical [N, 3, S, S] on the CPU.

    Args:
        recipe: The method; its `init` is noise, `real_random` (image k of a class is the k-th of a
            shuffle), or another, where image k is the k-th in an order.
        batch: The images.
        dataset: The real images.
        order: That order, see `class_order`.
        seed: Seed of the replicate, for all draws but noise: they do not depend on the batches.
        generator: The unit's CPU generator, for noise.
    """
    members, size = batch.members(), dataset.image_size
    if recipe.init == "noise":
        return torch.randn(len(members), 3, size, size, generator=generator)
    if recipe.init == "real_random":
        return dataset.normalize(random_real(dataset, members, seed=seed, tag="initial"))
    chosen = [order(c)[k] for c, k in members]
    if recipe.has_tiles:
        return torch.stack([mosaic(dataset, crops, recipe.grid(size)) for crops in chosen])
    return dataset.normalize(dataset.images("train", [int(index) for index in chosen]))


def class_order(
    recipe: Recipe,
    dataset: ImageDataset,
    scorer: Teacher | None,
    seed: int,
    count: int,
    class_index: int,
) -> Sequence[Any]:
    """Return a class's training images, or the crops of mosaics, in the order of `recipe.init`.

    Args:
        recipe: The method. By its `init` the first are, of `real`, those of the lowest index
            (published PRISM); of others see `ranking.rank_images` and `ranking.class_patches`.
        dataset: The real images.
        scorer: Teacher that ranks real images; None where the recipe does not rank.
        seed: Seed of the replicate.
        count: Images that are needed.
        class_index: The class.
    """
    if scorer is None:
        return dataset.class_indices("train", class_index).tolist()
    among = Candidates(dataset, scorer, class_index, recipe.max_scored_images, seed)
    if recipe.has_tiles:
        return class_patches(recipe, among)
    return rank_images(among, recipe.init, count)


def _order(run: Run, recipe: Recipe, method: str) -> Order:
    """Return the order of each class, also those that the squeeze has measured."""
    settings, dataset = run.settings, open_dataset(run.settings)
    if recipe.init == "real" and recipe.by_difficulty:
        return load_groups(run, method)["images"].tolist().__getitem__
    if recipe.init == "forgetting":
        events, most = forgetting_events(run, settings.primary), recipe.max_scored_images
        candidates = partial(subsample, dataset, most=most, seed=settings.replicate_seed)
        return cache(lambda c: sorted(candidates(c), key=lambda index: -int(events[index])))
    scorer = load_teacher(run, settings.primary) if recipe.needs_scorer else None
    return partial(class_order, recipe, dataset, scorer, settings.replicate_seed, settings.ipc)
