"""The manifest of a run: where it was made, its stages' totals, and decisions on the way."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from prism_nb import __version__
from prism_nb.core import fileio
from prism_nb.core.settings import MACHINE, Settings

_PACKAGES = ("prism-nb", "torch", "torchvision", "timm", "numpy", "scikit-learn")
DECISIVE_PACKAGES = ("torch", "torchvision", "timm")  # packages whose versions may change results


class Manifest:
    """The record of a run in `manifest.json`.

    Args:
        folder: The run's folder.
        settings: The run's settings.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._path = folder / "manifest.json"

    def read(self) -> dict[str, Any]:
        """Return the record; empty where it is missing or damaged."""
        return fileio.read_record(self._path)

    def stage(self, stage: str) -> dict[str, Any]:
        """Return the record of a stage; empty where there is none."""
        stages = self.read().get("stages")
        record = stages.get(stage) if isinstance(stages, dict) else None
        return record if isinstance(record, dict) else {}

    def record_stage(self, stage: str, **values: Any) -> None:
        """Add to a stage's record, and record today's versions and machine."""
        record = {**self.stage(stage), **values}
        self.amend("stages", stage, record, environment=environment(self._settings))

    def update(self, **values: Any) -> None:
        """Replace entries; entries that other processes change meanwhile stay."""
        self._rewrite(lambda found: values)

    def amend(self, group: str, name: str, value: Any, **others: Any) -> None:
        """Replace one value of a group of entries, and other entries."""

        def amended(found: dict[str, Any]) -> dict[str, Any]:
            known = found.get(group)
            return {**others, group: {**(known if isinstance(known, dict) else {}), name: value}}

        self._rewrite(amended)

    def _rewrite(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        found = self.read()
        if found == {**found, **change(found)}:
            return  # so that a finished run may be in a read-only folder
        with fileio.exclusive_lock(self._folder / "locks" / ".manifest"):
            found = self.read()
            fileio.write_json(self._path, {**found, **change(found)})


def environment(settings: Settings) -> dict[str, Any]:
    """Return what a run works with: versions, machine, machine settings and git commit."""
    return {
        "versions": {name: package_version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": machine(),
        "settings": settings.group_values(MACHINE),
        "commit": _git_commit(),
    }


def environment_key(device: torch.device) -> dict[str, str]:
    """Return what may change a unit's result besides its settings and inputs.

    Args:
        device: The device that the unit is computed on.
    """
    return {"device": device.type, **{name: package_version(name) for name in DECISIVE_PACKAGES}}


def package_version(package: str) -> str:
    """Return the version of an installed package, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def recorded_environment(manifest: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the environment in a manifest; today's where it is missing or damaged."""
    today, recorded = environment(settings), manifest.get("environment")
    if isinstance(recorded, dict) and recorded.keys() == today.keys():
        return recorded if isinstance(recorded["versions"], dict) else today
    return today


def newer_version_message(manifest: dict[str, Any]) -> str | None:
    """Return a sentence if a run was made by a newer version of the kit, else None."""
    recorded = manifest.get("environment")
    versions = recorded.get("versions") if isinstance(recorded, dict) else None
    made_by = versions.get("prism-nb") if isinstance(versions, dict) else None
    if not isinstance(made_by, str) or _numbers(made_by) <= _numbers(__version__):
        return None
    return f"this run was made by version {made_by} of the kit, newer than this one ({__version__})"


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d{1,9}", version.partition("+")[0])]


def machine() -> str:
    """Return the operating system, the processor's model and the number of cores."""
    model = platform.machine()
    with suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return f"{platform.system()}, {model}, {os.cpu_count()} cores"


def _git_commit() -> str:
    command, folder = ["git", "rev-parse", "HEAD"], Path(__file__).parent
    with suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
        return result.stdout.strip() or "unknown"
    return "unknown"
