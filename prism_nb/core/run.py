"""The run directory: the folder of all results of a run, and the only interface to write it."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.config import read_settings
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.events import EventLog
from prism_nb.core.lock import Locks
from prism_nb.core.manifest import Manifest
from prism_nb.core.paths import absolute_path
from prism_nb.core.recipe import TEXTS
from prism_nb.core.settings import FOLDER_NAME, Settings, extends, group_of
from prism_nb.core.unit_store import UnitStore
from prism_nb.core.yaml_io import write_yaml


class Run:
    """A run directory with its settings.

    Use `Run.create` for a new or continued run and `Run.open` for one that must exist.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.events = EventLog(path / "events")
        self.manifest = Manifest(path, settings)
        self.locks = Locks(path / "locks", self.events)
        self.units = UnitStore(path, self.locks)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run that exists."""
        config = path / "config.yaml"
        if not config.is_file():
            runs = [p.parent.name for p in path.parent.glob("*/config.yaml")]
            raise UsageError(
                f"no run at {path}; {suggest(path.name, runs)}; a new run needs a preset"
            )
        manifest = fileio.read_record(path / "manifest.json")
        return cls(path, _with_moved_images(read_settings(config), path, manifest))

    @classmethod
    def create(cls, path: Path, settings: Settings) -> Run:
        """Open a run with the given settings, or begin it; see `check_settings`."""
        run = cls(path, settings)
        if not run.check_settings():
            fileio.write_text(path / "config.yaml", write_yaml(settings.plain()))
            run.manifest.update(folder=str(path))
        return run

    def with_settings(self, settings: Settings) -> Run:
        """Return the run with other settings; see `check_settings`."""
        return Run.create(self.path, settings)

    def check_settings(self) -> bool:
        """Check that the folder holds no results of other settings.

        Settings may change as long as no stage that they decide has results.

        Returns:
            Whether the folder records these very settings already.
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
                    "another run name, use the run's own settings, or delete that folder"
                )
            return recorded == self.settings
        return False

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def file(self, relative: str) -> Path:
        """Return the path of a file of the run, and never of one outside."""
        path = self.path / relative
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise UsageError(f"{relative!r} leaves the run {self.path}")
        return path

    def write_classes(self, classes: list[dict[str, Any]]) -> None:
        """Record the class order, or check it against the recorded one.

        `classes` are index, folder and name of each.
        """
        path = self.path / "classes.json"
        recorded = self.read_classes()
        if recorded is None:
            fileio.write_json(path, classes)
            return
        for index, (old, new) in enumerate(zip_longest(recorded, classes)):
            if old != new:
                raise PrismError(
                    f"class order differs from {path} at index {index}: the run has {old}, the "
                    f"dataset {new}; use the dataset that the run was made from"
                )

    def read_classes(self) -> list[dict[str, Any]] | None:
        """Return the recorded class order, or None where none is recorded yet."""
        path = self.path / "classes.json"
        if not path.exists():
            return None
        value = fileio.read_json(path)
        whole = isinstance(value, list) and all(
            isinstance(c, dict) and set(c) == {"index", "folder", "name"} for c in value
        )
        if not value or not whole or [c["index"] for c in value] != list(range(len(value))):
            raise PrismError(
                f"{path} is damaged; delete that file, and the run records the dataset's class "
                "order anew"
            )
        return list(value)


def _with_moved_images(settings: Settings, path: Path, manifest: dict[str, Any]) -> Settings:
    """Return a run's settings with a `data_dir` that has moved together with the run's folder."""
    data_dir, folder = settings.data_dir, manifest.get("folder")
    if data_dir is None or not isinstance(folder, str) or Path(data_dir).exists():
        return settings
    moved = absolute_path(path / os.path.relpath(data_dir, folder))
    return settings.model_copy(update={"data_dir": str(moved)}) if moved.is_dir() else settings


def check_name(name: str) -> None:
    """Check that a run's name can be one folder's."""
    if not FOLDER_NAME.fullmatch(name):
        raise UsageError(
            f"run name {name!r}: use letters, digits, dot, dash and underscore, "
            "with a letter or digit first (--run or run_name gives a run its name)"
        )


_RESULTS = {
    "squeeze": "teachers/units/*.json",
    "synthesis": "synthesis/{}/units/*.json",
    "diversity": "diversity/{}.json",
    "relabel": "labels/{}/unit.json",
    "evaluation": "evaluation/{}/*/unit.json",
    "report": "figures/report.html",
}
_STAGES_OF_METHOD = ("synthesis", "diversity", "relabel", "evaluation")


def has_results(folder: Path, stage: str, method: str = "*") -> bool:
    """Return whether a stage has finished any unit in a run's folder, of a method or at all."""
    return any(folder.glob(_RESULTS[stage].format(method)))


def conflicting_settings(folder: Path, recorded: Settings, requested: Settings) -> list[str]:
    """Return a message for each changed setting that would mix a run's results with others."""
    old, new = recorded.plain(), requested.plain()
    found = []
    for method in sorted(old["recipes"].keys() | new["recipes"].keys()):
        before, after = (_deciding_changes(values, method) for values in (old, new))
        if before != after and any(has_results(folder, s, method) for s in _STAGES_OF_METHOD):
            found += _differences(f"recipes.{method}", before, after)
    if recorded.label_teachers_used == requested.label_teachers_used:
        old["label_teachers"] = new["label_teachers"]
    for name in old:
        group = group_of(name)
        if old[name] == new[name] or group is None or extends(name):
            continue
        if any(has_results(folder, stage) for stage in group.stages):
            found += _differences(name, old[name], new[name])
    return found


def _deciding_changes(values: dict[str, Any], method: str) -> dict[str, Any]:
    changes: dict[str, Any] = values["recipes"].get(method, {})
    return {name: value for name, value in changes.items() if name not in TEXTS}


def _differences(name: str, old: Any, new: Any) -> list[str]:
    """Return a message for a changed setting, or for each changed key of one that is a dict."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{name} is {old!r} in the run, {new!r} is requested"]
    before, after = (
        {key: repr(each[key]) if key in each else "the default" for key in old | new}
        for each in (old, new)
    )
    return [
        f"{name}.{key} is {before[key]} in the run, {after[key]} is requested"
        for key in before
        if before[key] != after[key]
    ]
