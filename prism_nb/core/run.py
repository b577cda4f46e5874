"""The run directory: one folder that holds all a run has made, and the only way to write there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.config import read_settings, short_hash
from prism_nb.core.errors import PrismError, UsageError, first_difference, suggest
from prism_nb.core.events import is_valid_event, valid_stage_record
from prism_nb.core.lock import Lease, LeaseHeldError, Owner, is_alive
from prism_nb.core.manifest import (
    UnitState,
    conflicting_settings,
    environment,
    find_corruption,
    has_results,
    is_valid_marker,
    newer_version_message,
    with_checksum,
)
from prism_nb.core.settings import FOLDER_NAME, STAGES, Settings
from prism_nb.core.units import Unit, slug
from prism_nb.core.yaml_io import write_yaml


class Run:
    """A run directory with its settings.

    Use `Run.create` for a new or continued run and `Run.open` for one that must exist.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self._held: dict[str, Lease] = {}

    # -- opening -----------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run that exists.

        Raises:
            UsageError: No run there, or its settings cannot be read.
        """
        config = path / "config.yaml"
        if not config.is_file():
            runs = [p.parent.name for p in path.parent.glob("*/config.yaml")]
            raise UsageError(
                f"no run at {path}, and a new run needs a preset; {suggest(path.name, runs)}"
            )
        try:
            return cls(path, read_settings(config))
        except UsageError as error:
            newer = newer_version_message(fileio.read_record(path / "manifest.json"))
            if newer is None:
                raise
            raise UsageError(f"{newer}; update the kit to open it ({error})") from None

    @classmethod
    def create(cls, path: Path, settings: Settings) -> Run:
        """Open a run with the given settings, or begin it.

        Settings may change as long as no stage that they decide has results.

        Raises:
            UsageError: The run holds results of other settings (the differing ones are named),
                or its name cannot be a folder's.
        """
        run = cls(path, settings)
        if not run.require_unmixed():
            fileio.write_text(path / "config.yaml", write_yaml(settings.plain()))
        return run

    def with_settings(self, settings: Settings) -> Run:
        """Return the run with other settings, refused where they would mix results."""
        return Run.create(self.path, settings)

    def require_unmixed(self) -> bool:
        """Check that the folder holds no results of other settings.

        Returns:
            Whether the folder records these very settings already.

        Raises:
            UsageError: It holds results of other settings, or of unknown ones.
        """
        check_name(self.name)
        if (self.path / "study.json").exists():
            raise UsageError(f"{self.path} is a study's folder; choose another run name")
        if (self.path / "config.yaml").is_file():
            recorded = Run.open(self.path).settings
            mixed = conflicting_settings(self.path, recorded, self.settings)
            if mixed:
                raise UsageError(
                    f"{self.path} holds results of other settings: {'; '.join(mixed)}. Choose "
                    "another run name, ask for the run's own settings, or delete that folder"
                )
            return recorded == self.settings
        if any(has_results(self.path, stage) for stage in STAGES):
            raise UsageError(
                f"{self.path} holds results but no config.yaml, so their settings are unknown; "
                "choose another run name, or delete that folder"
            )
        return False

    # -- paths and records -------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def file(self, relative: str) -> Path:
        """Return the path of a file of the run.

        Raises:
            UsageError: The path would leave the run.
        """
        path = (self.path / relative).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise UsageError(f"{relative!r} leaves the run {self.path}")
        return self.path / relative

    def manifest(self) -> dict[str, Any]:
        """Return the record of the run: versions, machine and the state of each stage."""
        return fileio.read_record(self.path / "manifest.json")

    def stage_record(self, stage: str) -> dict[str, Any]:
        """Return what the manifest says of a stage; empty where it says nothing."""
        stages = self.manifest().get("stages")
        return valid_stage_record(stages.get(stage) if isinstance(stages, dict) else None)

    def record_stage(self, stage: str, **values: Any) -> None:
        """Add to a stage's record in the manifest, with the versions and machine of today."""
        record = {**self.stage_record(stage), **values}
        self.amend_manifest("stages", stage, record, environment=environment(self.settings))

    def update_manifest(self, **values: Any) -> None:
        """Replace entries of the manifest; what others change meanwhile stays."""
        self._rewrite_manifest(lambda found: values)

    def amend_manifest(self, group: str, name: str, value: Any, **others: Any) -> None:
        """Replace one value of a group of the manifest, and entries beside it."""

        def amended(found: dict[str, Any]) -> dict[str, Any]:
            known = found.get(group)
            return {**others, group: {**(known if isinstance(known, dict) else {}), name: value}}

        self._rewrite_manifest(amended)

    def _rewrite_manifest(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        found = self.manifest()
        if found == {**found, **change(found)}:
            return  # so that a finished run may lie in a read-only folder
        with fileio.exclusive_lock(self.path / "locks" / ".manifest"):
            found = self.manifest()
            fileio.write_json(self.path / "manifest.json", {**found, **change(found)})

    def write_classes(self, classes: list[dict[str, Any]]) -> None:
        """Record the class order, or check it against the recorded one.

        Raises:
            PrismError: The order differs; the first differing class is named.
        """
        path = self.path / "classes.json"
        recorded = self.read_classes()
        if recorded is None:
            fileio.write_json(path, classes)
            return
        found = first_difference(recorded, classes)
        if found is not None:
            index, old, new = found
            raise PrismError(
                f"class order differs from {path} at index {index}: the run has {old}, the "
                f"dataset {new}; use the dataset that the run was made from"
            )

    def read_classes(self) -> list[dict[str, Any]] | None:
        """Return the recorded class order, or None where none is recorded yet.

        Raises:
            PrismError: The record is damaged.
        """
        path = self.path / "classes.json"
        if not path.exists():
            return None
        value = fileio.read_json(path)
        keys = {"index", "folder", "name"}
        whole = isinstance(value, list) and all(
            isinstance(c, dict) and set(c) == keys for c in value
        )
        if not value or not whole or [c["index"] for c in value] != list(range(len(value))):
            raise PrismError(
                f"{path} is damaged; delete that file, and the run records the dataset's class "
                "order anew"
            )
        return list(value)

    # -- events ------------------------------------------------------------------------------

    def event(self, stage: str, **values: Any) -> None:
        """Append an event of a stage to `events/<stage>.jsonl`."""
        line = json.dumps({"time": round(time.time(), 3), **values})
        fileio.append_line(self.path / "events" / f"{stage}.jsonl", line)

    def events(self, stage: str) -> Iterator[dict[str, Any]]:
        """Yield a stage's events in order, without what is damaged or an unfinished last line."""
        yield from self.events_after(stage, 0)[0]

    def events_after(self, stage: str, position: int) -> tuple[list[dict[str, Any]], int]:
        """Return the whole events after a position in a stage's log, and the new position."""
        path = self.path / "events" / f"{stage}.jsonl"
        if not path.is_file():
            return [], position
        with path.open("rb") as file:
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        values = [_parsed(line) for line in whole.splitlines()]
        return [value for value in values if value is not None], position + len(whole)

    # -- units -------------------------------------------------------------------------------

    def finish(self, unit: Unit, *, paths: list[str], record: dict[str, Any]) -> None:
        """Write a unit's marker, after all of its files.

        Args:
            unit: The finished unit.
            paths: Its files, relative to the run.
            record: What is worth knowing: seed, draws, losses, seconds.

        Raises:
            LostError: The unit was held, and has been taken over.
        """
        marker = with_checksum(
            {
                "unit": unit.name,
                "fingerprint": unit.fingerprint,
                "inputs": self.content(unit.inputs),
                "files": {path: fileio.sha256(self.file(path)) for path in paths},
                "record": record,
            }
        )
        self.require_held(unit)
        fileio.write_json(self.file(unit.marker), marker)

    def content(self, markers: tuple[str, ...]) -> str:
        """Digest the file hashes that some markers list; it changes when any content does."""
        found = [fileio.read_json(self.file(marker)) for marker in markers]
        return short_hash(
            [marker["files"] if is_valid_marker(marker) else None for marker in found]
        )

    def marker(self, unit: Unit) -> dict[str, Any] | None:
        """Return a unit's marker, or None where it is missing, damaged or of other settings."""
        marker = fileio.read_json(self.file(unit.marker))
        return (
            marker
            if is_valid_marker(marker) and marker["fingerprint"] == unit.fingerprint
            else None
        )

    def record(self, unit: Unit) -> dict[str, Any]:
        """Return what a finished unit recorded.

        Raises:
            PrismError: The unit is not done.
        """
        marker = self.marker(unit)
        if marker is None:
            raise PrismError(f"{unit.stage} unit {unit.name} is not done; run that stage first")
        return dict(marker["record"])

    def files_of(self, unit: Unit) -> list[str]:
        """Return the files that a finished unit made, relative to the run."""
        marker = self.marker(unit)
        return sorted(marker["files"]) if marker else []

    def inspect(self, unit: Unit, *, deep: bool = True) -> UnitState:
        """Compare a unit's marker with its files.

        Args:
            unit: The unit.
            deep: Whether to hash the files, or only to look whether they exist.
        """
        path = self.file(unit.marker)
        if not fileio.is_file(path):
            return UnitState(unit, "missing")
        marker = fileio.read_json(path)
        if not is_valid_marker(marker):
            return UnitState(unit, "damaged", f"{unit.marker} is no marker, or has been changed")
        if marker["fingerprint"] != unit.fingerprint:
            return UnitState(unit, "other settings", f"{unit.marker} was made by other settings")
        found = find_corruption(self.path, marker["files"], deep=deep)
        if found:
            return UnitState(unit, "damaged", found)
        if marker["inputs"] != self.content(unit.inputs):
            return UnitState(unit, "stale", f"{unit.name} was made from files that have changed")
        return UnitState(unit, "done")

    # -- locks -------------------------------------------------------------------------------

    @contextmanager
    def lock(self, stage: str) -> Iterator[None]:
        """Hold a stage, so that no second process drives it; a dead driver's place is taken.

        Raises:
            PrismError: Another process holds it.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.lease(f"{stage}.json", stage))
            except LeaseHeldError as error:
                raise self._driven(stage, error.owner) from None
            yield

    def require_free(self, stage: str) -> None:
        """Make sure that nobody drives a stage.

        Raises:
            PrismError: Somebody does.
        """
        owner = self.driver(stage)
        if owner is not None:
            raise self._driven(stage, owner)

    def _driven(self, stage: str, owner: Owner | None) -> PrismError:
        return PrismError(
            f"stage {stage} of {self.path} is being run by {owner or 'somebody'}; wait for it or "
            "stop it"
        )

    @contextmanager
    def hold(self, unit: Unit) -> Iterator[None]:
        """Hold a unit, so that no second process works on it.

        Raises:
            HeldError: Another process holds it.
        """
        with self.lease(f"{unit.stage}/{slug(unit.name)}.json", unit.stage) as lease:
            self._held[unit.marker] = lease
            try:
                yield
            finally:
                del self._held[unit.marker]

    def require_held(self, unit: Unit) -> None:
        """Make sure that a unit which was taken hold of is still this process's.

        Raises:
            LostError: It has been taken over.
        """
        if unit.marker in self._held:
            self._held[unit.marker].require()

    def lease(self, name: str, stage: str) -> Lease:
        """Return the lease of a name in the run; taking it over is an event of the stage."""

        def told(before: Owner | None) -> None:
            self.event(stage, event="lease_takeover", what=name, owner=str(before))

        return Lease(self.file(f"locks/{name}"), told)

    def driver(self, stage: str) -> Owner | None:
        """Return who drives a stage now; None where nobody does."""
        path = self.file(f"locks/{stage}.json")
        return Owner.read(path) if path.exists() and is_alive(path) else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Read one line of an event log, or None where a crash has left it broken."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and is_valid_event(value) else None


def check_name(name: str) -> None:
    """Check that a run's name can be one folder's.

    Raises:
        UsageError: It cannot, or it would lead elsewhere.
    """
    if not FOLDER_NAME.fullmatch(name):
        raise UsageError(
            f"run name {name!r}: use letters, digits, dot, dash and underscore, "
            "with a letter or digit first (--run or run_name gives a run its name)"
        )
