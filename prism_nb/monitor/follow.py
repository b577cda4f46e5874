"""Following a run by its files, whoever drives it."""

from __future__ import annotations

import time

from prism_nb import pipeline
from prism_nb.monitor import STAGE
from prism_nb.monitor.driver import Driver, driver_of
from prism_nb.monitor.forecast import Cost, cost_of, images_per_minute, seconds_left
from prism_nb.monitor.log import EventLog
from prism_nb.monitor.markers import Markers
from prism_nb.monitor.state import Curve, RunState
from prism_nb.run import Run
from prism_nb.units import Unit

_HASHING = 0.5  # seconds of one look; a look holds back the buttons as long


class Follower:
    """Reads a run's files again and again; only what is new or changed is read anew.

    While someone drives the run its events say what is done, else the markers do.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._position, self._log = run, 0, EventLog()
        self._units: dict[str, Unit] = {}
        self._costs: dict[str, Cost] = {}
        self._markers = Markers(run, ())
        self._driver: Driver | None = None

    def read(self) -> RunState:
        """Return the state now.

        Raises:
            PrismError: The units cannot be listed, as where the dataset is gone.
        """
        driver = driver_of(self._run)
        events, self._position = self._run.events_after(STAGE, self._position)
        for event in events:
            self._log.take(event)
        said = self._log.pop_said()
        if not self._units or driver != self._driver:
            self._look_through()  # younger than the events, which therefore count no more
        else:
            for name, done in said.items():
                self._markers.believe(name, done=done, seconds=self._log.made.get(name, 0.0))
        self._driver = driver
        if driver is None:
            self._look_again()
        return self._state(driver, time.time())

    def _look_through(self) -> None:
        """List the units, and which of them are done by their markers."""
        run = self._run
        self._units = {unit.name: unit for unit in pipeline.stage_units(run, STAGE)}
        self._costs = {name: cost_of(run, unit) for name, unit in self._units.items()}
        self._markers = Markers(run, self._units.values())
        self._markers.read()

    def _look_again(self) -> None:
        """See what has changed where nobody says so; what seems complete is gone through."""
        self._markers.read()
        if len(self._markers.done) == len(self._units):
            self._markers.hash_some(_HASHING)

    def _state(self, driver: Driver | None, now: float) -> RunState:
        log = self._log
        at_work = {name: work for name, work in log.at_work.items() if name in self._units}
        name, work = next(reversed(at_work.items()), ("", None))
        age = None if log.last is None else max(0.0, now - log.last)
        return RunState(
            units=len(self._units),
            done=len(self._markers.done),
            unhashed=0 if driver else self._markers.unhashed,
            at_work=name,
            step=work.step if work else 0,
            steps=work.steps if work else 0,
            seconds_left=self._seconds_left(),
            images_per_minute=self._throughput(),
            curves=self._curves(name),
            driver=driver,
            started=log.started,
            host=log.host,
            closing=log.closing,
            reason=log.reason,
            age=age,
            notes=(*self._spoilt(), *self._strange(), *self._waits(driver)),
        )

    def _seconds_left(self) -> float | None:
        done = self._markers.done
        taken = {name: (1.0, seconds) for name, seconds in done.items()}
        for name, work in self._log.at_work.items():
            if name in self._units and name not in done and work.share:
                taken[name] = (work.share, max(0.0, work.told - work.begun))
        return seconds_left(self._costs, done.keys(), taken)

    def _throughput(self) -> float | None:
        log = self._log
        if log.working is None or log.last is None:
            return None
        made = [name for name in log.made if name in self._units]
        shares = {name: w.share for name, w in log.at_work.items() if name in self._units}
        return images_per_minute(self._costs, made, shares, log.last - log.working)

    def _curves(self, first: str) -> tuple[Curve, ...]:
        """Return the losses of every unit that has some, the first unit's last."""
        found = self._log.curves.by_unit
        names = [name for name in found if name in self._units and name != first]
        names += [first] if first in found else []
        return tuple(Curve(name, self._steps_of(name), dict(found[name])) for name in names)

    def _steps_of(self, name: str) -> int:
        return self._run.settings.recipe_of(self._units[name].key["method"]).iterations

    def _waits(self, driver: Driver | None) -> list[str]:
        """Say what a driver that is at work waits for."""
        return [f"Its driver says: {self._log.waiting}."] if driver and self._log.waiting else []

    def _spoilt(self) -> list[str]:
        """Say which finished units are to be made again."""
        spoilt = self._markers.spoilt
        if not spoilt:
            return []
        many, first = len(spoilt), spoilt[0]
        what = "A finished unit is" if many == 1 else f"{many} finished units are"
        which = first.unit.name if many == 1 else f"first {first.unit.name}"
        return [f"{what} to be made again: {which} ({first.state}: {first.reason})."]

    def _strange(self) -> list[str]:
        """Say what of the log belongs to something else."""
        said = []
        others = sorted(self._log.named - self._units.keys())
        if others:
            said.append(
                f"The log also speaks of {len(others)} units that these settings do not have "
                f"(first {others[0]}); they are left out."
            )
        if self._log.unread:
            said.append(f"{self._log.unread} events cannot be read and are left out.")
        return said
