"""What logs and manifests say, without what a crash, a disk or a hand has spoilt in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

_LARGEST = sys.float_info.max
_LATEST = 253_402_300_799  # the last second that calendars can write, of the year 9999


def is_valid_event(event: dict[str, Any]) -> bool:
    """Return whether an event has the values that its kind needs, and none of another type.

    Kinds and values that this version of the kit does not know are whatever they like.
    """
    kind = event.get("event")
    needed = _NEEDED.get(kind, ()) if isinstance(kind, str) else ("event",)
    return all(name in event for name in needed) and len(_whole(event)) == len(event)


def valid_stage_record(record: Any) -> dict[str, Any]:
    """Return what a manifest says of a stage, without values of another type than the kit's."""
    return _whole(record) if isinstance(record, dict) else {}


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if _KINDS.get(name, _is_any)(value)}


def _is_any(_: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and -_LARGEST <= value <= _LARGEST  # which NaN and infinity are not


def _is_amount(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _is_moment(value: Any) -> bool:
    return _is_amount(value) and value <= _LATEST


def _are_losses(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(loss) for loss in value.values())


_KINDS: dict[str, Callable[[Any], bool]] = {
    "event": _is_text,
    "unit": _is_text,
    "why": _is_text,
    "time": _is_moment,
    "step": _is_count,
    "steps": lambda value: _is_count(value) and value > 0,
    "losses": _are_losses,
    "seconds": _is_amount,
    "units_made": _is_count,
    "peak_memory_bytes": _is_count,
}
_NEEDED = {"begin": ("unit",), "step": ("unit", "step", "steps"), "waiting": ("why",)}
