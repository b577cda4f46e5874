"""The state of a run's synthesis at a moment, and the words for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from prism_nb.monitor.driver import Driver

_FRESH = 60.0  # seconds; an event this young speaks of a driver whose lock cannot be seen
_LONG = 600.0  # seconds without a word after which a driver may hang
_NEXT = "Finished units are kept; Resume continues"


@dataclass(frozen=True)
class Curve:
    """The losses of a unit.

    Attributes:
        unit: Its name.
        steps: Steps of its schedule.
        terms: By the term's name: (step, value), the value unweighted.
    """

    unit: str
    steps: int
    terms: dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class RunState:
    """What the files say.

    Attributes:
        units: Number of units.
        done: Number of those that are done.
        unhashed: Number of those whose files are there, but not yet known to be whole.
        at_work: The unit that was begun last and has not ended; empty where none.
        step: Steps that it has done.
        steps: Steps of its schedule; 0 until its first report.
        seconds_left: Estimate; None where nothing was measured.
        images_per_minute: Since the latest driver's first unit began; None before.
        curves: The losses of units at work and of some that have ended, the last being the unit
            to look at where none is chosen.
        driver: Who holds the stage's lock.
        started: When the latest driver began, by its clock; None before the first.
        host: Where the latest driver was, by its own word.
        closing: How it ended: `complete`, `stopped`, `failed`, or empty.
        reason: Why it failed.
        age: Seconds since the last event, by this machine's clock; None before the first.
        notes: What else is to be said, a sentence each.
    """

    units: int
    done: int
    unhashed: int = 0
    at_work: str = ""
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    images_per_minute: float | None = None
    curves: tuple[Curve, ...] = ()
    driver: Driver | None = None
    started: float | None = None
    host: str = ""
    closing: str = ""
    reason: str = ""
    age: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def curve(self) -> Curve | None:
        """The losses to look at where no unit is chosen; None before any."""
        return self.curves[-1] if self.curves else None

    def curve_of(self, unit: str) -> Curve | None:
        """Return a unit's losses; None where there are none."""
        return next((curve for curve in self.curves if curve.unit == unit), None)

    @property
    def missing(self) -> int:
        """Number of units that are not done."""
        return self.units - self.done

    @property
    def is_running(self) -> bool:
        """Whether someone drives the run: holds its lock, or has just spoken from elsewhere."""
        return self.driver is not None or self.status == "elsewhere"

    @property
    def status(self) -> str:
        """Running, elsewhere, checking, complete, stopped, failed, died, begun or empty."""
        if self.driver is not None:
            return "running" if self.driver.is_here else "elsewhere"
        if not self.missing:
            return "checking" if self.unhashed else "complete"
        if self.closing in {"stopped", "failed"}:
            return self.closing
        if self.at_work:
            speaks = self.age is not None and self.age < _FRESH
            return "elsewhere" if speaks and self._is_foreign else "died"
        return "begun" if self.done else "empty"

    @property
    def was_begun(self) -> bool:
        """Whether there is something to resume."""
        return self.done > 0 or self.status in {"stopped", "failed", "died"}

    @property
    def _is_foreign(self) -> bool:
        return bool(self.host) and not Driver(1, self.host).is_here

    @property
    def words(self) -> str:
        """The state in a sentence or two."""
        return {
            "running": self._running,
            "elsewhere": self._elsewhere,
            "checking": lambda: (
                f"All {self.units} units are there; checking the files of {self.unhashed}."
            ),
            "complete": lambda: f"Complete: all {self.units} units are done.",
            "stopped": lambda: f"Stopped. {_NEXT}.",
            "failed": lambda: f"Failed: {self.reason or 'for an unknown reason'}. {_NEXT}.",
            "died": self._died,
            "begun": lambda: f"Not running. {_NEXT}.",
            "empty": lambda: "No units yet: press Start, or run the cell below.",
        }[self.status]()

    def _running(self) -> str:
        process = self.driver.process if self.driver is not None else 0
        if process == os.getpid():
            return "Running in this notebook's kernel; interrupt the kernel to stop it."
        return f"Running in process {process} on this machine.{self._silence()}"

    def _elsewhere(self) -> str:
        if self.driver is None:
            return f"Driven on {self.host}, by its events; its lock is not seen here."
        return (
            f"Running in process {self.driver.process} on {self.driver.host or 'an unknown host'}; "
            f"it can be stopped there only.{self._silence()}"
        )

    def _silence(self) -> str:
        if self.age is None or self.age < _LONG:
            return ""
        return f" Its last word is {self.age / 60:.0f} min old: it may hang."

    def _died(self) -> str:
        return (
            f"The process that drove the run died at {self.at_work} without a word (killed, or out "
            f"of memory). {_NEXT}."
        )
