"""Where results come from: versions, machine and code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from prism_nb import __version__
from prism_nb.settings import MachineSettings, Settings

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
        "settings": settings.section(MachineSettings),
        "commit": _git_commit(),
    }


def made_in(manifest: dict[str, object], settings: Settings) -> dict[str, Any]:
    """Return the environment that a run's manifest records; today's where that is damaged."""
    today, recorded = environment(settings), manifest.get("environment")
    if isinstance(recorded, dict) and recorded.keys() == today.keys():
        return recorded if isinstance(recorded["versions"], dict) else today
    return today


def newer_kit(manifest: dict[str, object]) -> str | None:
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
