"""Markers: the last file of a unit, which says what it is made of and that it is whole."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from prism_nb import __version__
from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.settings import MACHINE, Settings, extends, group_of
from prism_nb.core.units import Unit


@dataclass(frozen=True)
class UnitState:
    """What the files say of a unit.

    Attributes:
        unit: The unit.
        state: `done`, `missing`, `damaged` (a file of it is gone or changed), `stale` (its inputs
            have changed since) or `other settings`. All but `done` are done again.
        reason: What is wrong, in words.
    """

    unit: Unit
    state: str
    reason: str = ""


def with_checksum(values: dict[str, Any]) -> dict[str, Any]:
    """Return a marker with a digest of what it says."""
    plain = json.loads(fileio.json_bytes(values))  # as a reader will see it
    return {**plain, "digest": short_hash(plain)}


def is_valid_marker(value: Any) -> bool:
    """Return whether a value read from a file is a marker, as it was written."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("fingerprint"), str)
        and isinstance(value.get("inputs"), str)
        and isinstance(value.get("record"), dict)
        and isinstance(value.get("files"), dict)
        and all(isinstance(h, str) and h for h in value["files"].values())
        and value.get("digest") == short_hash({k: v for k, v in value.items() if k != "digest"})
    )


def find_corruption(folder: Path, listed: dict[str, str], *, deep: bool) -> str:
    """Return in words what is wrong with the files of a marker; empty if nothing is.

    Args:
        folder: The run's.
        listed: Their hashes by path.
        deep: Whether to hash them, or only to look whether they exist.
    """
    for name, expected in listed.items():
        path = folder / name
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
        except (ValueError, OSError, RuntimeError):
            return f"{name!r} is no file name"
        if not inside:
            return f"{name} leaves the run"
        if not fileio.is_file(path):
            return f"{name} is gone"
        if deep and fileio.sha256(path) != expected:
            return f"{name} has changed since it was written"
    return ""


_RESULTS = {
    "squeeze": "teachers/units/*.json",
    "synthesis": "synthesis/*/units/*.json",
    "diversity": "diversity/*.json",
    "relabel": "labels/*/unit.json",
    "evaluation": "evaluation/*/*/unit.json",
    "report": "figures/report.html",
}
_RESULTS_OF_METHOD = (
    "synthesis/{}/units/*.json",
    "diversity/{}.json",
    "labels/{}/unit.json",
    "evaluation/{}/*/unit.json",
)


def has_results(folder: Path, stage: str) -> bool:
    """Return whether a stage has finished any unit in a run's folder."""
    return any(folder.glob(_RESULTS[stage]))


def conflicting_settings(folder: Path, recorded: Settings, asked: Settings) -> list[str]:
    """Return in words which settings would mix a run's results with others.

    Args:
        folder: The run's.
        recorded: The settings that the run has.
        asked: Those that it is asked to have.
    """
    old, new = recorded.plain(), asked.plain()
    found = []
    for method in sorted(old["recipes"].keys() | new["recipes"].keys()):
        mine, theirs = (_binding_recipe(values, method) for values in (new, old))
        if mine != theirs and _has_results_of(folder, method):
            found.append(_in_words(f"recipes.{method}", theirs, mine))
    if recorded.label_teachers_used == asked.label_teachers_used:
        old["label_teachers"] = new["label_teachers"]
    for name in old:
        if old[name] != new[name] and not extends(name) and _has_decided(folder, name):
            found.append(_in_words(name, old[name], new[name]))
    return found


def _in_words(name: str, old: Any, new: Any) -> str:
    return f"{name} is {old!r} in the run, {new!r} asked for"


def _has_results_of(folder: Path, method: str) -> bool:
    """Return whether any stage has finished a unit of a method."""
    return any(any(folder.glob(pattern.format(method))) for pattern in _RESULTS_OF_METHOD)


def _has_decided(folder: Path, name: str) -> bool:
    """Return whether there are results that a setting has decided."""
    group = group_of(name)
    return group is not None and any(has_results(folder, stage) for stage in group.stages)


def _binding_recipe(values: dict[str, Any], method: str) -> dict[str, Any]:
    """Return what a run's settings change of a method's recipe, without its words."""
    words = {"title", "paper", "deviations"}
    changes: dict[str, Any] = values["recipes"].get(method, {})
    return {name: value for name, value in changes.items() if name not in words}


_VERSIONS = ("prism-nb", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def environment(settings: Settings) -> dict[str, Any]:
    """Describe what a run works with: versions, machine, device setting and git commit."""
    versions = {}
    for package in _VERSIONS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": machine(),
        "settings": settings.group_values(MACHINE),
        "commit": _git_commit(),
    }


def recorded_environment(manifest: dict[str, object], settings: Settings) -> dict[str, Any]:
    """Return the environment that a run's manifest records; today's where that is damaged."""
    today, recorded = environment(settings), manifest.get("environment")
    if isinstance(recorded, dict) and recorded.keys() == today.keys():
        return recorded if isinstance(recorded["versions"], dict) else today
    return today


def newer_version_message(manifest: dict[str, object]) -> str | None:
    """Return in words that a run was made by a newer version of the kit, if it was.

    Args:
        manifest: The run's, with the environment it was made in.
    """
    made_in = manifest.get("environment")
    versions = made_in.get("versions") if isinstance(made_in, dict) else None
    made_by = versions.get("prism-nb") if isinstance(versions, dict) else None
    if not isinstance(made_by, str) or _parts(made_by) <= _parts(__version__):
        return None
    return f"this run was made by version {made_by} of the kit, newer than this one ({__version__})"


def _parts(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d{1,9}", version.partition("+")[0])]


def machine() -> str:
    """Describe the processor: its model where the system tells it, and the number of cores."""
    model = platform.machine()
    with suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return f"{platform.system()}, {model}, {os.cpu_count()} cores"


def _git_commit() -> str:
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip() or "unknown"
