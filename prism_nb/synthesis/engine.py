"""Which engine a run's synthesis uses: decided once, before its first unit, and kept.

Engines agree to rounding only, so a run that was decided anew after an interruption would mix
them. `auto` compiles where the time that it is measured to save exceeds what compiling takes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from prism_nb.data import open_dataset
from prism_nb.device import choose_device, require_compiler
from prism_nb.errors import UsageError
from prism_nb.plans.synthesis import batch_of
from prism_nb.run import Run
from prism_nb.synthesis.costs import StepTimer
from prism_nb.units import Unit

# Compiling a network takes a minute or so of two cores and saves an eighth of a large step (`make
# bench`): below this a run could gain minutes at the most, and is not held up to find out.
_FEWEST_STEPS = 2_000
_COMPILE_SECONDS = 90  # per network, of two cores
_LARGEST_GAIN = 0.5  # of the time of a step; only runs that could gain are tried


def prepare(run: Run, units: Sequence[Unit]) -> None:
    """Decide the engine of a run whose setting is `auto`, unless that was done before.

    A run with too few steps for a compiler to pay is left eager, without a word in its manifest:
    it may still grow.
    """
    if run.settings.engine != "auto" or "engine" in run.manifest():
        return
    left = _to_recover(run, units)
    steps = sum(run.settings.recipe_of(unit.key["method"]).iterations for unit in left)
    if steps >= _FEWEST_STEPS:
        choice, why = _decide(run, left)
        run.update_manifest(engine={"choice": choice, "why": why})


def _decide(run: Run, units: Sequence[Unit]) -> tuple[str, str]:
    try:
        require_compiler(choose_device(run.settings.device))
    except UsageError as error:
        return "eager", str(error)
    eager = _seconds(run, units, compiled=False)
    networks = len(run.settings.teachers)
    if _LARGEST_GAIN * eager < networks * _COMPILE_SECONDS:
        return "eager", f"{eager:.0f} s of work are too few for a compiler to pay"
    begin = time.monotonic()
    compiled = _seconds(run, units, compiled=True)
    spent = time.monotonic() - begin
    why = f"{eager:.0f} s eager, {compiled:.0f} s compiled, measured in {spent:.0f} s"
    return "compiled" if compiled + spent < eager else "eager", why


def _seconds(run: Run, units: Sequence[Unit], *, compiled: bool) -> float:
    timer = StepTimer(run.settings, open_dataset(run.settings), compiled=compiled)
    return sum(timer.unit_seconds(u.key["method"], batch_of(u)) for u in units)


def _to_recover(run: Run, units: Sequence[Unit]) -> list[Unit]:
    """Return the units that are to be optimised; those that are done cost nothing more."""
    return [
        unit
        for unit in units
        if run.settings.recipe_of(unit.key["method"]).images == "recovered"
        and run.inspect(unit, deep=False).state != "done"
    ]
