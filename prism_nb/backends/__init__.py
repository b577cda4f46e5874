"""How units are carried out: one function, whatever does the work."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from prism_nb.errors import PrismError
from prism_nb.run import Run
from prism_nb.units import Unit

OnEvent = Callable[[dict[str, Any]], None]
Finish = Callable[[], None]
Work = Callable[[Run, Unit, OnEvent], Finish | None]


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
        work: `module:function` of a `Work`; it reads and writes files of the run only. What it
            returns, if anything, writes the unit's files, while the next unit is begun.
        on_event: Told of each unit's begin and end, and of what the work reports.

    Raises:
        PrismError: A unit failed or another process drives the stage. Finished units stay.
    """
    begin = time.monotonic()
    do: Work = resolve(work)
    made = 0
    with _Background() as background:
        for unit in units:
            if run.inspect(unit).state == "done":
                on_event({"event": "kept", "unit": unit.name})
                continue
            background.check()
            on_event({"event": "begin", "unit": unit.name})
            start = time.monotonic()
            finish = do(run, unit, on_event)
            background.do(partial(_end, run, unit, start, finish, on_event))
            made += 1
    return Outcome(kept=len(units) - made, made=made, seconds=time.monotonic() - begin)


def _end(run: Run, unit: Unit, start: float, finish: Finish | None, on_event: OnEvent) -> None:
    if finish is not None:
        finish()
    if run.marker(unit) is None:
        raise PrismError(f"the work on unit {unit.name} left no marker")
    on_event({"event": "end", "unit": unit.name, "seconds": time.monotonic() - start})


class _Background:
    """Does one thing at a time beside the caller, who hears of its failure at the next, or at exit.

    Whatever ends the caller's work, what was handed over before is finished.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._thread.shutdown()
        failed = self._last.exception() if self._last is not None else None
        if failed is None or failed is error:
            return
        if error is None:
            raise failed
        error.add_note(f"beside that, the unit before could not be written: {failed}")

    def check(self) -> None:
        """Raise the failure of the last work, if it has failed already."""
        if self._last is not None and self._last.done():
            self._last.result()

    def do(self, work: Callable[[], None]) -> None:
        """Begin this work, after that before it, whose failure is raised."""
        before, self._last = self._last, self._thread.submit(work)
        if before is not None:
            before.result()


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; its module is imported only now."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
