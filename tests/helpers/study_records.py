"""Accuracy records of a study, written by hand."""

from __future__ import annotations

import pandas as pd

CLEAR = {"prism": [80.0, 81.0, 82.0], "sre2l": [50.0, 51.1, 52.0], "random_real": [90.0, 91, 92.2]}
CLOSE = {"prism": [80.0, 70.0, 95.0], "sre2l": [81.0, 72.0, 60.0], "random_real": [10.0, 9, 11]}


def study_records(top1: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Return records of one student, from scenario to method to a value per replicate."""
    rows = [
        {"scenario": s, "replicate": r, "method": m, "student": "n", "top1": value}
        for s, methods in top1.items()
        for m, values in methods.items()
        for r, value in enumerate(values)
    ]
    return pd.DataFrame(rows)
