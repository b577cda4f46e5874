"""The operations and the memory that a network of a run takes until it can be used."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.settings import Settings
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.training.images import MOST_RESIDENT
from prism_nb.units import Unit, has_weights

_REMEMBERED = {"adamw": 2, "sgd": 1}  # values per weight


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


def most_bytes(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> float:
    """Return what the largest training of some units takes of a device; 0 where none is trained."""
    trained = {unit.key["network"] for unit in units if "patch" not in unit.key}
    batch, kind = settings.squeeze_batch, settings.squeeze_optimiser
    needs = [training_bytes(arithmetic, n, batch, kind) for n in trained if not has_weights(n)]
    return max(needs) + real_bytes(arithmetic) if needs else 0.0


def training_bytes(arithmetic: Arithmetic, name: str, batch: int, optimiser: str) -> float:
    """Return what a training step takes: weights, what an optimiser remembers, and the step."""
    weights = arithmetic.weight_bytes(name) * (1 + _REMEMBERED[optimiser])
    return weights + arithmetic.learning_bytes(name, batch)


def real_bytes(arithmetic: Arithmetic) -> float:
    """Return what the training images take that stay on a device; 0 where they are too many."""
    dataset = arithmetic.dataset
    taken = 3.0 * dataset.image_size**2 * len(dataset.labels("train"))
    return taken if taken <= MOST_RESIDENT else 0.0


def labelling_flop(settings: Settings, arithmetic: Arithmetic) -> float:
    """Return the operations of one label: one view, seen by every label teacher."""
    return sum(arithmetic.forward(name) for name in settings.labellers)
