"""Values as people read them."""

from __future__ import annotations

from typing import Any

DASH = "–"


def value_words(value: Any) -> str:
    """Return a plain value for readers: yes or no, names with commas, a dash for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(value_words(item) for item in value) or DASH
    if isinstance(value, dict):
        return ", ".join(f"{k}: {value_words(v)}" for k, v in value.items()) or DASH
    return DASH if value is None else str(value)
