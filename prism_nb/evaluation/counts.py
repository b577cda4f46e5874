"""The operations and the memory that students take."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.plans.evaluation import is_hard, is_plain
from prism_nb.settings import REFERENCE, Settings
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.teachers.counts import labelling_flop, real_bytes, training_bytes
from prism_nb.units import Unit


def unit_flop(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> list[float]:
    """Return the operations of each unit: images learned from, judged by, and labelled for it."""
    return [_flop(settings, arithmetic, unit) for unit in units]


def most_bytes(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> float:
    """Return what the largest training of some units takes of a device, its images included."""
    kinds = dict.fromkeys((unit.key["method"], unit.key["student"]) for unit in units)
    return max(_bytes(settings, arithmetic, *kind) for kind in kinds)


def _bytes(settings: Settings, arithmetic: Arithmetic, method: str, student: str) -> float:
    dataset = arithmetic.dataset
    made = len(dataset.classes) * settings.ipc
    real = method == REFERENCE
    held = real_bytes(arithmetic) if real else 3.0 * dataset.image_size**2 * made
    batch = min(settings.student_batch, len(dataset.labels("train")) if real else made)
    averaged = arithmetic.weight_bytes(student) if settings.student_ema else 0.0
    kind = settings.student_optimiser
    return held + averaged + training_bytes(arithmetic, student, batch, kind)


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
