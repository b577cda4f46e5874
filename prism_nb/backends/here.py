"""Units one after the other, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

from prism_nb.backends.work import Finish, OnEvent, Outcome, Work, resolve
from prism_nb.device import own_threads
from prism_nb.errors import PrismError
from prism_nb.leases import HeldError
from prism_nb.run import Run
from prism_nb.units import Unit

_WAIT = 2.0  # seconds between two looks at a unit that another process works on


def run_in_process(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in this process, as `run_units` does."""

    def emit(event: dict[str, Any]) -> None:
        run.event(units[0].stage, **event)
        on_event(event)

    threads = run.settings.threads
    with own_threads(None if threads == "auto" else threads):
        return run_here(run, units, work, emit)


def run_here(run: Run, units: Sequence[Unit], work: str, emit: OnEvent) -> Outcome:
    """Do the units that are not done, and say so to `emit` alone.

    A unit that another process works on is waited for, and done here if that process dies.
    """
    begin, left = time.monotonic(), list(units)
    with _Background() as background:
        worker = _Worker(run, resolve(work), background, emit)
        while left:
            held = [unit for unit in left if not worker.take(unit)]
            if len(held) == len(left):
                time.sleep(_WAIT)
            left = held
    return Outcome(len(units) - worker.made, worker.made, time.monotonic() - begin)


class _Worker:
    """Takes units in turn; `made` counts those that it has done itself."""

    def __init__(self, run: Run, do: Work, background: _Background, emit: OnEvent) -> None:
        self._run, self._do, self._background, self._emit = run, do, background, emit
        self._told: set[str] = set()
        self.made = 0

    def take(self, unit: Unit) -> bool:
        """Do a unit, unless it is done; return whether that is settled, or somebody is at it."""
        if self._run.inspect(unit).state == "done":
            self._emit({"event": "kept", **unit.words})
            return True
        self._background.check()
        with ExitStack() as lease:
            try:
                lease.enter_context(self._run.hold(unit))
            except HeldError as error:
                self._tell(unit, error)
                return False
            if self._run.inspect(unit).state == "done":  # by whoever held it until now
                self._emit({"event": "kept", **unit.words})
                return True
            self._emit({"event": "begin", **unit.words})
            start = time.monotonic()
            finish = self._do(self._run, unit, self._emit)
            # From here the lease is the background's to give back, once the files are written.
            kept = lease.pop_all()
        self._background.do(partial(self._end, unit, start, finish, kept))
        self.made += 1
        return True

    def _end(self, unit: Unit, start: float, finish: Finish | None, lease: ExitStack) -> None:
        with lease:
            if finish is not None:
                self._run.require_held(unit)
                finish()
            if self._run.marker(unit) is None:
                raise PrismError(f"the work on unit {unit.name} left no marker")
        self._emit({"event": "end", **unit.words, "seconds": time.monotonic() - start})

    def _tell(self, unit: Unit, held: HeldError) -> None:
        if unit.name not in self._told:
            self._told.add(unit.name)
            self._emit({"event": "elsewhere", "unit": unit.name, "owner": str(held.owner)})


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
