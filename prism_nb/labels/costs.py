"""What labelling will cost, from a few views on this device."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.data import open_dataset
from prism_nb.run import Run
from prism_nb.teachers.labelling_costs import view_seconds
from prism_nb.units import Unit


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take: one and the same for every method."""
    settings = run.settings
    if settings.labels != "stored":
        return [0.0] * len(units)
    views = len(open_dataset(settings).classes) * settings.ipc * settings.label_epochs
    return [view_seconds(run) * views] * len(units)
