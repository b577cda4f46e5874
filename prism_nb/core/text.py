"""Text for values, durations and numbers of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DASH = "–"


def format_value(value: Any) -> str:
    """Return a plain value for readers: yes or no, names with commas, a dash for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value) or DASH
    if isinstance(value, dict):
        return ", ".join(f"{k}: {format_value(v)}" for k, v in value.items()) or DASH
    return DASH if value is None else str(value)


def format_first(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, separated by commas, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def format_ipc(ipc: int) -> str:
    """Return a number of images per class in words."""
    return f"{ipc:,} image{'s' * (ipc > 1)} per class"


def format_duration(seconds: float | None) -> str:
    """Return a length of time for people, from seconds to days."""
    if seconds is None:
        return "not measured"
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def format_bytes(value: int | None) -> str:
    """Return bytes for people, in MB or GB."""
    if value is None:
        return "not measured"
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"
