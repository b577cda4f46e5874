"""The operations that labelling takes."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.settings import Settings
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.teachers.counts import labelling_flop
from prism_nb.units import Unit


def unit_flop(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> list[float]:
    """Return the operations of each unit: every stored epoch, and the images as they are."""
    epochs = settings.label_epochs if settings.labels == "stored" else 0
    images = len(arithmetic.dataset.classes) * settings.ipc
    return [(epochs + 1) * images * labelling_flop(settings, arithmetic)] * len(units)
