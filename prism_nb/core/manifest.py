"""The manifest of a run: where it was made, its stages' totals, and decisions on the way."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism_nb.core import fileio
from prism_nb.core.settings import MACHINE, Settings

if TYPE_CHECKING:
    import torch

_PACKAGES = ("prism-nb", "torch", "torchvision", "timm", "numpy", "scikit-learn")
DECISIVE_PACKAGES = ("torch", "torchvision", "timm")  # packages whose versions may change results


class Manifest:
    """The record of a run in its folder's `manifest.json`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._path = folder / "manifest.json"

    def read(self) -> dict[str, Any]:
        """Return the record; empty where it is missing or damaged."""
        return fileio.read_record(self._path)

    def stage(self, stage: str) -> dict[str, Any]:
        """Return the record of a stage; empty where there is none."""
        return _dict(_dict(self.read().get("stages")).get(stage))

    def environment(self) -> dict[str, Any]:
        """Return the recorded environment; today's where it is missing."""
        return _dict(self.read().get("environment")) or environment(self._settings)

    def record_stage(self, stage: str, **values: Any) -> None:
        """Add to a stage's record, and record today's versions and machine."""
        record = {**self.stage(stage), **values}
        self.update(stages={stage: record}, environment=environment(self._settings))

    def update(self, **values: Any) -> None:
        """Replace entries, one by one in those that are dicts; others stay as they are."""
        found = self.read()
        if found == _updated(found, values):
            return  # so that a finished run may be in a read-only folder
        with fileio.exclusive_lock(self._folder / "locks" / ".manifest"):
            fileio.write_json(self._path, _updated(self.read(), values))


def _updated(found: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = {
        name: {**_dict(found.get(name)), **value} if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return {**found, **merged}


def _dict(value: Any) -> dict[str, Any]:
    """Return a recorded dict; empty where it is missing or damaged."""
    return value if isinstance(value, dict) else {}


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
    """Return what may change a unit's result besides its settings and inputs."""
    return {"device": device.type, **{name: package_version(name) for name in DECISIVE_PACKAGES}}


def package_version(package: str) -> str:
    """Return the version of an installed package, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


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
