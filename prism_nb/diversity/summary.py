"""Values of each class as plain values: their mean, and why some are undefined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prism_nb.diversity.catalogue import MEASURES

Values = dict[str, float]
Summary = dict[str, Any]


def summarise(rows: Sequence[Values], there: Sequence[Mapping[str, int]]) -> dict[str, Summary]:
    """Turn the values of each class into plain values without NaN.

    Args:
        rows: For each class, values by measure; NaN where undefined.
        there: For each class, how many there are of what measures need.

    Returns:
        By measure: `mean` over the classes for which it is defined, `per_class`, and in words why
        it is `undefined` anywhere; None where there is nothing to say.
    """
    return {
        name: _summary([row[name] for row in rows], [MEASURES[name].lacks(have) for have in there])
        for name in rows[0]
    }


def summarise_set(name: str, value: float, there: Mapping[str, int]) -> Summary:
    """Turn the value of a whole set, NaN where undefined, into the same form."""
    defined = math.isfinite(value)
    return {
        "mean": plain(value),
        "per_class": None,
        "undefined": None if defined else MEASURES[name].lacks(there),
    }


def plain(value: float) -> float | None:
    """Return a value that JSON has: None instead of NaN and infinity."""
    return value if math.isfinite(value) else None


def _summary(values: Sequence[float], reasons: Sequence[str]) -> Summary:
    defined = [value for value in values if math.isfinite(value)]
    left_out = [c for c, value in enumerate(values) if not math.isfinite(value)]
    words = reasons[left_out[0]] if left_out else None
    if left_out and defined:
        words = f"{len(left_out)} of {len(values)} classes left out, first {left_out[0]}: {words}"
    return {
        "mean": math.fsum(defined) / len(defined) if defined else None,
        "per_class": [plain(value) for value in values],
        "undefined": words,
    }
