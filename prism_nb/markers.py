"""Markers: the last file of a unit, which says what it is made of and that it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism_nb import files
from prism_nb.config import digest
from prism_nb.units import Unit


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


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """Return a marker with a digest of what it says."""
    plain = json.loads(files.json_bytes(values))  # as a reader will see it
    return {**plain, "digest": digest(plain)}


def is_marker(value: Any) -> bool:
    """Return whether a value read from a file is a marker, as it was written."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("binding"), str)
        and isinstance(value.get("inputs"), str)
        and isinstance(value.get("record"), dict)
        and isinstance(value.get("files"), dict)
        and all(isinstance(h, str) and h for h in value["files"].values())
        and value.get("digest") == digest({k: v for k, v in value.items() if k != "digest"})
    )


def damage(folder: Path, listed: dict[str, str], *, deep: bool) -> str:
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
        if not files.is_file(path):
            return f"{name} is gone"
        if deep and files.sha256(path) != expected:
            return f"{name} has changed since it was written"
    return ""
