"""The operations that a network of a run takes until it can be used."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.settings import Settings
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.units import Unit, has_weights


def unit_flop(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> list[float]:
    """Return the operations of each unit.

    A network is trained on all training images, unless it has weights, and then judged by all
    held-out ones; the statistics of its convolutions are one pass over the training images.
    """
    return [_flop(settings, arithmetic, unit) for unit in units]


def _flop(settings: Settings, arithmetic: Arithmetic, unit: Unit) -> float:
    name = unit.key["network"]
    train, val = (len(arithmetic.dataset.labels(split)) for split in ("train", "val"))
    if "patch" in unit.key:
        return train * arithmetic.forward(name)
    judged = val * arithmetic.forward(name)
    if has_weights(name):
        return judged
    return judged + settings.squeeze_epochs * train * arithmetic.learning(name)


def labelling_flop(settings: Settings, arithmetic: Arithmetic) -> float:
    """Return the operations of one label: one view, seen by every label teacher."""
    return sum(arithmetic.forward(name) for name in settings.labellers)
