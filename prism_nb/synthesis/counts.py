"""The operations that a unit of the synthesis takes: its steps, and what they begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.plans.batches import Batch
from prism_nb.plans.synthesis import batch_of
from prism_nb.settings import Settings
from prism_nb.synthesis.costs import StepTimer
from prism_nb.teachers.arithmetic import Arithmetic, count_flop
from prism_nb.teachers.shapes import META
from prism_nb.units import Unit


def unit_flop(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> list[float]:
    """Return the operations of each unit.

    A class whose real images are scored is scored once per process, so its first unit has that.
    """
    counter = StepCounter(settings, arithmetic.dataset, _known=arithmetic.steps)
    scored, found = set[object](), []
    for unit in units:
        method, batch = unit.key["method"], batch_of(unit)
        fresh = [c for c in range(*batch.classes) if (method, c) not in scored]
        scored |= {(method, c) for c in fresh}
        scoring = len(fresh) * _scoring(settings, arithmetic, method)
        found.append(counter.unit_flop(method, batch) + scoring)
    return found


def _scoring(settings: Settings, arithmetic: Arithmetic, method: str) -> float:
    """Return what it takes to score a class's real images, where a recipe asks for that."""
    recipe = settings.recipe_of(method)
    if not recipe.is_scored:
        return 0.0
    looks = recipe.patch_crops if recipe.init == "patches" else 1
    real = min(recipe.score_most, per_class(arithmetic.dataset))
    return looks * real * arithmetic.forward(settings.primary)


def per_class(dataset: ImageDataset) -> float:
    """Return the training images of a class, in the mean."""
    return float(np.size(dataset.labels("train")) / len(dataset.classes))


@dataclass
class StepCounter(StepTimer):
    """Adds up the operations of steps as its base adds up their seconds, on tensors without values.

    Not counted: the one pass over real images by which some recipes scale losses.
    """

    def unit_flop(self, method: str, batch: Batch) -> float:
        """Return the operations of a unit's steps."""
        return self._unit_cost(method, batch)

    @property
    def _device(self) -> torch.device:
        return META

    def _measure(self, work: Callable[[], object]) -> float:
        return count_flop(work)

    def _image_cost(self) -> float:
        return 0.0  # to round and to encode an image takes no product

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.empty(shape, device=META)
