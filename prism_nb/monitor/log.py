"""What the events of the synthesis add up to, taken one by one as they arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from prism_nb.monitor.curves import Curves

_CLOSING = {"complete", "stopped", "failed"}


@dataclass
class AtWork:
    """A unit that has begun and not ended.

    Attributes:
        begun: When, in seconds since 1970 by the driver's clock.
        step: Steps done.
        steps: Steps of its schedule; 0 until its first report.
        told: When it was last heard of.
    """

    begun: float
    step: int = 0
    steps: int = 0
    told: float = 0.0

    @property
    def share(self) -> float:
        """The share of its steps that is done, in [0, 1]."""
        return min(1.0, max(0.0, self.step / self.steps)) if self.steps else 0.0


class EventLog:
    """A fold over events; what it cannot read it leaves out and counts.

    Attributes:
        at_work: Units that have begun and not ended since the latest start.
        made: Seconds that each unit made since the latest start has taken.
        said: Whether each unit of which something was said since `pop_said` is done.
        named: Every unit that was named at all.
        started: When the latest driver began; None before the first.
        working: When its first unit began; None before that.
        host: Where that driver was, if it said so.
        closing: The event that it ended with: `complete`, `stopped`, `failed`, or nothing.
        reason: Why it failed, in its own words.
        waiting: What the driver waits for, in its own words, as long as no unit moves.
        curves: The losses of each unit that reports.
        last: When the latest event was written.
        unread: Events that make no sense to this version of the kit.
    """

    def __init__(self) -> None:
        self.at_work: dict[str, AtWork] = {}
        self.made: dict[str, float] = {}
        self.said: dict[str, bool] = {}
        self.named: set[str] = set()
        self.started: float | None = None
        self.working: float | None = None
        self.host, self.closing, self.reason, self.waiting = "", "", "", ""
        self.curves = Curves()
        self.last: float | None = None
        self.unread = 0
        self._read = {
            "start": self._start,
            "begin": self._begin,
            "step": self._step,
            "end": self._end,
            "kept": self._keep,
            "waiting": self._wait,
        }

    def take(self, event: dict[str, Any]) -> None:
        """Take note of one event; kinds that are not known tell nothing."""
        kind = event.get("event")
        try:
            time = _finite(event["time"])
            self.waiting = ""
            if kind in _CLOSING:
                self._close(event)
            elif kind in self._read:
                self._read[str(kind)](event, time)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            self.unread += 1
            return
        self.last = time

    def pop_said(self) -> dict[str, bool]:
        """Return which units were said to be done, or not to be, since the last call."""
        said, self.said = self.said, {}
        return said

    def _start(self, event: dict[str, Any], time: float) -> None:
        self.started, self.host, self.closing, self.reason = time, str(event["host"]), "", ""
        self.at_work, self.made, self.working = {}, {}, None

    def _begin(self, event: dict[str, Any], time: float) -> None:
        unit = self._name(event)
        self.at_work.pop(unit, None)  # so that the latest stands last
        self.at_work[unit] = AtWork(time, told=time)
        self.curves.begin(unit)
        self.said[unit] = False
        self.working = time if self.working is None else self.working
        self.closing = ""

    def _step(self, event: dict[str, Any], time: float) -> None:
        unit, step, steps = self._name(event), int(event["step"]), int(event["steps"])
        losses = {str(term): float(value) for term, value in event["losses"].items()}
        work = self.at_work.setdefault(unit, AtWork(time))
        work.step, work.steps, work.told = step, steps, time
        self.curves.add(unit, step, losses, self.at_work)

    def _end(self, event: dict[str, Any], _: float) -> None:
        unit = self._name(event)
        self.made[unit] = _finite(event["seconds"])
        self.at_work.pop(unit, None)
        self.said[unit] = True

    def _keep(self, event: dict[str, Any], _: float) -> None:
        self.said[self._name(event)] = True

    def _wait(self, event: dict[str, Any], _: float) -> None:
        self.waiting = str(event["why"])

    def _close(self, event: dict[str, Any]) -> None:
        self.closing, self.reason = str(event["event"]), str(event.get("reason", ""))
        self.at_work = {}

    def _name(self, event: dict[str, Any]) -> str:
        unit = event["unit"]
        if not isinstance(unit, str):
            raise TypeError
        self.named.add(unit)
        return unit


def _finite(value: Any) -> float:
    """Return a number of an event; NaN and infinity, which JSON lacks, are refused."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number
