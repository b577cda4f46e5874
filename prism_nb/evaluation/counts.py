"""The operations that students take."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.plans.evaluation import is_hard, is_plain
from prism_nb.settings import REFERENCE, Settings
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.teachers.counts import labelling_flop
from prism_nb.units import Unit


def unit_flop(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> list[float]:
    """Return the operations of each unit: images learned from, judged by, and labelled for it."""
    return [_flop(settings, arithmetic, unit) for unit in units]


def _flop(settings: Settings, arithmetic: Arithmetic, unit: Unit) -> float:
    name, dataset = unit.key["student"], arithmetic.dataset
    real = unit.key["method"] == REFERENCE
    images = len(dataset.labels("train")) if real else len(dataset.classes) * settings.ipc
    judged = -(-settings.epochs // settings.evaluate_every) * len(dataset.labels("val"))
    labelled = _labelled(settings, unit.key["treatment"]) * images
    return (
        settings.epochs * images * arithmetic.learning(name)
        + judged * arithmetic.forward(name)
        + labelled * labelling_flop(settings, arithmetic)
    )


def _labelled(settings: Settings, treatment: str) -> int:
    """Return how often an image is labelled while a student learns."""
    if is_hard(settings, treatment):
        return 0
    if is_plain(treatment):
        return 1
    return settings.epochs if settings.labels == "online" else 0
