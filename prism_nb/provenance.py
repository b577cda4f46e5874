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
