"""What a unit begins from: its recipe, its own random numbers and its initial images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prism_nb.data import open_dataset
from prism_nb.plans.batches import Batch
from prism_nb.plans.synthesis import batch_of, method_units
from prism_nb.recipes import Recipe
from prism_nb.run import Run
from prism_nb.synthesis.initial import initial_images
from prism_nb.teachers.pool import load_teacher
from prism_nb.units import Unit, unit_seed


@dataclass(frozen=True)
class Beginning:
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


def begin(run: Run, unit: Unit, images: Batch | None = None) -> Beginning:
    """Return what a unit begins from; the same at every call.

    Args:
        run: The run.
        unit: A unit of a method whose images are made here, not imported.
        images: Which of its images are wanted; all of them if None. Fewer are the same ones only
            where the recipe does not begin with noise, which is drawn for a batch at once.

    Raises:
        PrismError: The recipe has the primary judge real images, and it is not trained.
    """
    settings, method, batch = run.settings, unit.key["method"], batch_of(unit)
    recipe = settings.recipe_of(method).at_slot(batch.slots[0])
    seed = unit_seed(settings.replicate_seed, "synthesis", method, *batch.slots, *batch.classes)
    generator = torch.Generator().manual_seed(seed)
    initial = initial_images(
        recipe,
        images or batch,
        open_dataset(settings),
        scorer=load_teacher(run, settings.primary) if recipe.is_scored else None,
        seed=settings.replicate_seed,
        generator=generator,
    )
    return Beginning(recipe, seed, generator, initial)


def initial_pictures(run: Run, method: str, members: Sequence[tuple[int, int]]) -> Tensor:
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
    return dataset.bytes_of(torch.stack([found[member] for member in members]))


def _begun(run: Run, unit: Unit, members: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return some of a unit's initial images; only noise is drawn for its whole batch."""
    if not members:
        return []
    batch = batch_of(unit)
    if run.settings.recipe_of(unit.key["method"]).init == "noise":
        every = dict(zip(batch.members(), begin(run, unit).images, strict=True))
        return [every[member] for member in members]
    alone = [Batch((slot, slot + 1), (c, c + 1)) for c, slot in members]
    return [begin(run, unit, one).images[0] for one in alone]
