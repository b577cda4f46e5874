"""Initial images of a unit: noise, or real training images chosen in one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from prism_nb.core.recipe import CORESETS, Recipe
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
    class_patches,
    coreset_indices,
    crop_images,
    mosaic,
    rank_by_median_loss,
    subsample,
)


@dataclass(frozen=True)
class UnitInit:
    """A unit before its first step.

    Attributes:
        recipe: The method, for the unit's image indices.
        seed: The unit's seed.
        generator: CPU generator seeded with it, after the draws of the initial images.
        images: Initial images, canonical [N, 3, S, S] on the CPU.
    """

    recipe: Recipe
    seed: int
    generator: torch.Generator
    images: Tensor


def prepare_unit(run: Run, unit: Unit, part: ImageBatch | None = None) -> UnitInit:
    """Return the initial state of a unit; every call gives the same.

    Args:
        run: The run.
        unit: A unit of a method that makes its images here (not imported).
        part: The images to make, a part of the unit's batch; None: all. Only noise depends on the
            other images of the batch.

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
        scorer=load_teacher(run, settings.primary) if recipe.needs_scorer else None,
        order=_order(run, recipe, method),
        seed=settings.replicate_seed,
        generator=generator,
    )
    return UnitInit(recipe, seed, generator, images)


def real_tiles(run: Run, unit: Unit) -> Tensor:
    """Return the real images behind the tiles of a unit's initial images, each in full size.

    Returns:
        Canonical [N, grid * grid, 3, S, S] on the CPU, those of an image in reading order.
    """
    settings, dataset = run.settings, open_dataset(run.settings)
    recipe, scorer = settings.recipe_of(unit.params["method"]), load_teacher(run, settings.primary)
    size, members = dataset.image_size, batch_of(unit).members()
    crops = partial(class_patches, recipe, dataset, scorer, seed=settings.replicate_seed)
    return torch.stack([crop_images(dataset, crops(c)[k], size) for c, k in members])


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
    *,
    scorer: Teacher | None = None,
    order: Callable[[int], Sequence[int]] | None = None,
    seed: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the initial images of a batch, canonical [N, 3, S, S] on the CPU.

    Image k of a class is, by `recipe.init`:
        noise: standard normal.
        real: the k-th training image in file order (published PRISM), or the middle one of the k-th
            difficulty group (PSM).
        real_random: the k-th of a shuffle of the class.
        real_median: the k-th nearest to the class's median loss (DELT).
        patches: a mosaic of the k-th group of crops of lowest loss (RDED).
        mosaic: a mosaic of the k-th group of whole images of lowest loss (CIM).
        el2n, herding, k_center, forgetting: the k-th of that coreset; see `synthesis.coresets`.

    Args:
        recipe: The method.
        batch: The images.
        dataset: The real images.
        scorer: Teacher whose loss ranks real images; None where the recipe does not rank.
        order: A class's training images in the order of the recipe's coreset or difficulty groups;
            None without.
        seed: Seed of the replicate, for all draws but noise: they do not depend on the batches.
        generator: The unit's CPU generator, for noise.
    """
    members = batch.members()
    if recipe.init == "noise":
        size = dataset.image_size
        return torch.randn(len(members), 3, size, size, generator=generator)
    if order is not None:
        return dataset.normalize(dataset.images("train", [order(c)[k] for c, k in members]))
    if recipe.init == "real_random":
        return dataset.normalize(random_real(dataset, members, seed=seed, tag="initial"))
    if recipe.init == "real":
        indices = [int(dataset.class_indices("train", c)[k]) for c, k in members]
        return dataset.normalize(dataset.images("train", indices))
    if scorer is None:
        raise ValueError(f"init {recipe.init!r} needs a network that scores the real images")
    if recipe.init == "real_median":
        most = recipe.max_scored_images
        indices = [rank_by_median_loss(dataset, scorer, c, most, seed)[k] for c, k in members]
        return dataset.normalize(dataset.images("train", indices))
    grid = recipe.grid(dataset.image_size)
    patches = [class_patches(recipe, dataset, scorer, c, seed)[k] for c, k in members]
    return torch.stack([mosaic(dataset, crops, grid) for crops in patches])


def _order(run: Run, recipe: Recipe, method: str) -> Callable[[int], Sequence[int]] | None:
    """Return the order of a class's training images by difficulty groups or as a coreset."""
    if recipe.init == "real" and recipe.by_difficulty:
        return load_groups(run, method)["images"].tolist().__getitem__
    if recipe.init not in CORESETS:
        return None
    settings, dataset = run.settings, open_dataset(run.settings)
    most, seed = recipe.max_scored_images, settings.replicate_seed
    if recipe.init == "forgetting":
        events = forgetting_events(run, settings.primary)
        candidates = partial(subsample, dataset, most=most, seed=seed)
        return cache(lambda c: sorted(candidates(c), key=lambda index: -int(events[index])))
    rank = partial(coreset_indices, dataset, load_teacher(run, settings.primary))
    return partial(rank, kind=recipe.init, count=settings.ipc, most=most, seed=seed)
