"""Whether one method beats another, or the difference drowns in the spread."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

_LEVEL = 0.05
PAIR_COLUMNS = [
    *("scenario", "a", "b", "difference", "low", "high"),
    *("p", "p_holm", "replicates", "verdict"),
]


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracy with its 95 % interval, per scenario and method.

    A replicate counts once, as the mean over its students, because students of one replicate
    learn from the same images. The interval is Student's t over replicates.

    Args:
        records: The result of `results.accuracy_records`.

    Returns:
        Columns scenario, method, mean, low, high, std, replicates, and one mean per student; low
        and high are NaN where there is one replicate only.
    """
    rows = []
    for (scenario, method), group in records.groupby(["scenario", "method"], sort=False):
        values = group.groupby("replicate")["top1"].mean().to_numpy(float)
        low, high = _interval(values)
        rows.append(
            {
                "scenario": scenario,
                "method": method,
                "mean": values.mean(),
                "low": low,
                "high": high,
                "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                "replicates": len(values),
                **group.groupby("student", sort=False)["top1"].mean().to_dict(),
            }
        )
    return pd.DataFrame(rows)


def compare_pairs(records: pd.DataFrame) -> pd.DataFrame:
    """Compare every two methods of a scenario by a paired t-test over replicates.

    Within a replicate both methods share teachers, label views and students' seeds, so their
    difference is taken there. P-values are corrected for the number of pairs in the scenario
    (Holm 1979).

    Args:
        records: The result of `results.accuracy_records`.

    Returns:
        `PAIR_COLUMNS`, one row per scenario and unordered pair: difference is a - b in points, low
        and high its 95 % interval, verdict the better of the two, or `open` where the difference
        does not exceed the spread. Without a spread, as with one replicate, p is NaN and the
        verdict open.
    """
    parts = [_compare(scenario, group) for scenario, group in records.groupby("scenario")]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PAIR_COLUMNS)


def _compare(scenario: object, records: pd.DataFrame) -> pd.DataFrame:
    means = records.groupby(["replicate", "method"])["top1"].mean().unstack("method")
    methods = list(dict.fromkeys(records["method"]))
    rows = [_pair(means, a, b) for a, b in combinations(methods, 2)]
    if not rows:
        return pd.DataFrame(columns=PAIR_COLUMNS)
    frame = pd.DataFrame(rows)
    frame.insert(0, "scenario", scenario)
    frame["p_holm"] = _holm(frame["p"].to_numpy(float))
    leader = frame["a"].where(frame["difference"] > 0, frame["b"])
    frame["verdict"] = leader.where(frame["p_holm"] < _LEVEL, "open")
    return frame[PAIR_COLUMNS]


def _pair(means: pd.DataFrame, a: str, b: str) -> dict[str, object]:
    both = means[[a, b]].dropna()
    differences = (both[a] - both[b]).to_numpy(float)
    low, high = _interval(differences)
    return {
        "a": a,
        "b": b,
        "difference": differences.mean() if len(differences) else np.nan,
        "low": low,
        "high": high,
        "p": _p_value(differences),
        "replicates": len(differences),
    }


def _p_value(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return float("nan")
    if not differences.std():  # no spread to compare with: accuracies move in steps, and tie
        return float("nan")
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(1 - _LEVEL / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def _holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values step down: the smallest times n, the next times n - 1, never falling."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    stepped = np.maximum.accumulate(np.minimum(p[order] * factors, 1.0))
    corrected = np.empty_like(stepped)
    corrected[order] = stepped
    return corrected
