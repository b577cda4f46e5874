"""How units are carried out: one function, whatever does the work."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prism_nb.errors import PrismError
from prism_nb.run import Run
from prism_nb.units import Unit

OnEvent = Callable[[dict[str, Any]], None]
Work = Callable[[Run, Unit, OnEvent], None]


@dataclass(frozen=True)
class Outcome:
    """What a call did: units found done, units made now, and the seconds that took."""

    kept: int
    made: int
    seconds: float


def run_units(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
    """Do the units that are not done, one after the other, in this process.

    Args:
        run: The run that the units belong to.
        units: All units of one stage, in order.
        work: `module:function` of a `Work`; it reads and writes files of the run only.
        on_event: Told of each unit's begin and end, and of what the work reports.

    Raises:
        PrismError: A unit failed or another process drives the stage. Finished units stay.
    """
    from prism_nb.device import keep_freed_memory

    keep_freed_memory()
    begin = time.monotonic()
    do: Work = resolve(work)
    made = 0
    for unit in units:
        if run.inspect(unit).state == "done":
            on_event({"event": "kept", "unit": unit.name})
            continue
        on_event({"event": "begin", "unit": unit.name})
        start = time.monotonic()
        do(run, unit, on_event)
        if run.marker(unit) is None:
            raise PrismError(f"{work} left unit {unit.name} without a marker")
        on_event({"event": "end", "unit": unit.name, "seconds": time.monotonic() - start})
        made += 1
    return Outcome(kept=len(units) - made, made=made, seconds=time.monotonic() - begin)


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; its module is imported only now."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
