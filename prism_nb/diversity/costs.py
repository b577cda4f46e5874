"""What measuring diversity will cost, from a few images seen by each network on this device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prism_nb.data import open_dataset
from prism_nb.device import choose_device, matrix_precision
from prism_nb.diversity.counts import looks
from prism_nb.run import Run
from prism_nb.teachers.costs import judging_seconds
from prism_nb.units import Unit


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds of the networks of each unit; those of the measures are not foreseen."""
    settings, dataset = run.settings, open_dataset(run.settings)

    @cache
    def seconds(name: str) -> float:
        return judging_seconds(run, name)

    with matrix_precision("fp32", choose_device(settings.device)):
        return [looks(settings, dataset, seconds, unit) for unit in units]
