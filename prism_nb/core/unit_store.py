"""The units of a run: markers of what is done, and leases of what is in work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import Lease, Locks
from prism_nb.core.units import Unit, slug


@dataclass(frozen=True)
class UnitState:
    """The state of a unit's files. All but `done` are done again."""

    unit: Unit
    # `done`, `missing`, `damaged` (a file of it is gone or changed), `stale` (its inputs have
    # changed since) or `other settings`.
    state: str
    reason: str = ""  # what is wrong, for messages


class UnitStore:
    """Reads and writes the markers of a run's units.

    A marker is the last file of a unit that is written. It lists the unit's files with their
    hashes, the hash of its inputs, and what is worth recording.
    """

    def __init__(self, folder: Path, locks: Locks) -> None:
        self._folder, self._locks = folder, locks
        self._held: dict[str, Lease] = {}

    def finish(self, unit: Unit, *, paths: list[str], record: dict[str, Any]) -> None:
        """Write a unit's marker, after all of its files, unless the unit has been taken over.

        `paths` are its files, relative to the run; `record` is what is worth recording, e.g. seeds,
        draws, losses, seconds.
        """
        values = {
            "unit": unit.name,
            "fingerprint": unit.fingerprint,
            "inputs": self.inputs_hash(unit.inputs),
            "files": {path: fileio.sha256(self._folder / path) for path in paths},
            "record": record,
        }
        plain = json.loads(fileio.json_bytes(values))  # as a reader gets it
        self.check_held(unit)
        fileio.write_json(self._folder / unit.marker, {**plain, "digest": short_hash(plain)})

    def marker(self, unit: Unit) -> dict[str, Any] | None:
        """Return a unit's marker; None where it is missing, damaged or of other settings."""
        marker = self._read(unit.marker)
        return marker if marker and marker["fingerprint"] == unit.fingerprint else None

    def record(self, unit: Unit) -> dict[str, Any]:
        """Return the record of a unit that must be done."""
        marker = self.marker(unit)
        if marker is None:
            raise PrismError(f"{unit.stage} unit {unit.name} is not done; run that stage first")
        return dict(marker["record"])

    def files(self, unit: Unit) -> list[str]:
        """Return the files of a finished unit, relative to the run."""
        marker = self.marker(unit)
        return sorted(marker["files"]) if marker else []

    def inputs_hash(self, markers: tuple[str, ...]) -> str:
        """Return a hash of all files that some markers list, by the hashes that they record."""
        found = [self._read(marker) for marker in markers]
        return short_hash([marker["files"] if marker else None for marker in found])

    def is_done(self, unit: Unit, *, verify_hashes: bool = True) -> bool:
        """Return whether a unit is done; see `state`."""
        return self.state(unit, verify_hashes=verify_hashes).state == "done"

    def state(self, unit: Unit, *, verify_hashes: bool = True) -> UnitState:
        """Compare a unit's marker with its settings, its inputs and its files.

        Without `verify_hashes`, files need only exist.
        """
        if not fileio.is_file(self._folder / unit.marker):
            return UnitState(unit, "missing")
        marker = self._read(unit.marker)
        if marker is None:
            return UnitState(unit, "damaged", f"{unit.marker} is no marker, or has been changed")
        if marker["fingerprint"] != unit.fingerprint:
            return UnitState(unit, "other settings", f"{unit.marker} was made by other settings")
        problem = self._corruption(marker["files"], verify_hashes=verify_hashes)
        if problem:
            return UnitState(unit, "damaged", problem)
        if marker["inputs"] != self.inputs_hash(unit.inputs):
            return UnitState(unit, "stale", f"{unit.name} was made from files that have changed")
        return UnitState(unit, "done")

    @contextmanager
    def hold(self, unit: Unit) -> Iterator[None]:
        """Hold a unit, so that no second process works on it; see `Lease`."""
        with self._locks.lease(f"{unit.stage}/{slug(unit.name)}.json", unit.stage) as lease:
            self._held[unit.marker] = lease
            try:
                yield
            finally:
                del self._held[unit.marker]

    def check_held(self, unit: Unit) -> None:
        """Check that a unit which this process holds has not been taken over; see `Lease`."""
        if unit.marker in self._held:
            self._held[unit.marker].check()

    def _read(self, marker: str) -> dict[str, Any] | None:
        """Return a marker as it was written; None where it is missing or damaged."""
        value = fileio.read_record(self._folder / marker)
        digest = value.pop("digest", None)
        return value | {"digest": digest} if value and digest == short_hash(value) else None

    def _corruption(self, listed: dict[str, str], *, verify_hashes: bool) -> str:
        """Return what is wrong with the files of a marker; empty if nothing is."""
        for name, expected in listed.items():
            path = self._folder / name
            if not fileio.is_file(path):
                return f"{name} is gone"
            if verify_hashes and fileio.sha256(path) != expected:
                return f"{name} has changed since it was written"
        return ""
