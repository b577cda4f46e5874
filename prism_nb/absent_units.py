"""Why units are not there, in words, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.markers import UnitState
from prism_nb.pipeline import STAGES
from prism_nb.run import Run
from prism_nb.units import Unit


def absent(run: Run, units: Sequence[Unit], unmade: str) -> str:
    """Say why units of a stage are not there: damaged, made by other settings, or never made.

    Args:
        run: The run.
        units: They, of one stage; at least one.
        unmade: What is said where none of them was ever made.
    """
    states = [run.inspect(unit, deep=False) for unit in units]
    spoilt = [state for state in states if state.state not in {"done", "missing"}]
    if not spoilt:
        return unmade
    number = STAGES[units[0].stage].notebook.partition("_")[0]
    return f"{_spoilt(spoilt, len(units))}; run notebook {number} again, which mends that"


def _spoilt(states: Sequence[UnitState], count: int) -> str:
    first = f"{states[0].state}: {states[0].reason}"
    return first if count == 1 else f"{len(states)} of {count} units not usable, first {first}"
