"""Which units of a run are done, by their markers and files."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prism_nb.markers import UnitState
from prism_nb.run import Run
from prism_nb.units import Unit

Stamp = tuple[int, int] | None  # a file's time of change in ns and its size; None: no file


class Markers:
    """The units' states; a marker is read anew only where it, or what it was made from, changed.

    Reading looks whether a unit's files exist. Hashing them takes as long as reading them all, so
    `hash_some` does it bit by bit.

    Args:
        run: The run.
        units: Its units.
    """

    def __init__(self, run: Run, units: Iterable[Unit]) -> None:
        self._run, self._units = run, {unit.name: unit for unit in units}
        self._stamps: dict[str, list[Stamp]] = {}
        self._states: dict[str, UnitState] = {}
        self._unhashed: dict[str, Unit] = {}
        self.done: dict[str, float] = {}  # seconds by unit

    @property
    def unhashed(self) -> int:
        """Number of units that are done as far as was looked, but whose files were not hashed."""
        return len(self._unhashed)

    @property
    def spoilt(self) -> list[UnitState]:
        """The units that were done once and are to be done again, with the reason of each."""
        return [state for state in self._states.values() if state.state not in {"done", "missing"}]

    def read(self) -> None:
        """Look at the markers that are new, changed or gone since the last time."""
        known: dict[str, Stamp] = {}
        for name, unit in self._units.items():
            stamps = [self._stamp(path, known) for path in (unit.marker, *unit.inputs)]
            if stamps != self._stamps.get(name):
                self._stamps[name] = stamps
                self._take(self._run.inspect(unit, deep=False))

    def hash_some(self, seconds: float) -> None:
        """Hash the files of units that are done: of one at least, and on for so many seconds."""
        until = time.monotonic() + seconds
        while self._unhashed:
            name = next(iter(self._unhashed))
            self._take(self._run.inspect(self._unhashed[name]))
            self._unhashed.pop(name, None)
            if time.monotonic() >= until:
                return

    def believe(self, name: str, *, done: bool, seconds: float = 0.0) -> None:
        """Take a driver's word for a unit; names that are not known are left out."""
        unit = self._units.get(name)
        if unit is None:
            return
        self._states[name] = UnitState(unit, "done" if done else "missing")
        self._unhashed.pop(name, None)
        self.done.pop(name, None)
        if done:
            self.done[name] = seconds

    def _take(self, state: UnitState) -> None:
        done = state.state == "done"
        marker = self._run.marker(state.unit) if done else None
        seconds = marker["record"].get("seconds", 0.0) if marker else 0.0
        self.believe(state.unit.name, done=done, seconds=seconds)
        self._states[state.unit.name] = state
        if done:
            self._unhashed[state.unit.name] = state.unit

    def _stamp(self, path: str, known: dict[str, Stamp]) -> Stamp:
        if path not in known:
            try:
                found = (self._run.path / path).stat()
                known[path] = (found.st_mtime_ns, found.st_size)
            except OSError:
                known[path] = None
        return known[path]
