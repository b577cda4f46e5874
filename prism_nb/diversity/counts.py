"""The operations of the networks that measure diversity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prism_nb.data import ImageDataset
from prism_nb.plans.diversity import REFERENCE
from prism_nb.settings import Settings
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.units import Unit


def unit_flop(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> list[float]:
    """Return the operations of each unit.

    Every network sees an image once. The real images that all sets are compared with are seen
    once per process, which the unit of the reference is given. The products of the measures
    themselves are not counted.
    """
    return [looks(settings, arithmetic.dataset, arithmetic.forward, unit) for unit in units]


def looks(
    settings: Settings, dataset: ImageDataset, cost: Callable[[str], float], unit: Unit
) -> float:
    """Add up what the networks of a unit cost, from what each costs by its name for one image."""
    spaces = sum(cost(name) for name in settings.feature_spaces)
    teachers = sum(cost(name) for name in settings.teachers)
    total = len(dataset.classes) * settings.ipc * (spaces + teachers)
    if unit.key["method"] == REFERENCE:
        total += _real_images(settings, dataset) * spaces
    return total


def _real_images(settings: Settings, dataset: ImageDataset) -> int:
    """Return how many real images sets are compared with, the reference among them."""
    wanted = len(dataset.classes) * (settings.ipc + settings.real_per_class)
    return min(wanted, len(dataset.labels("train")))
