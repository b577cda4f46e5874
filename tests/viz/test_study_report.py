"""A study's statistics are those of scipy; its results and page show what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from prism_nb.execution.study import Study, StudyFolder
from prism_nb.viz import study_report
from prism_nb.viz.study_report import PAIR_COLUMNS, answer, compare_pairs, summarize
from tests.helpers.study_records import CLEAR, CLOSE, study_records

STUDY: dict[str, Any] = {
    "title": "T",
    "preset": "digits_quick",
    "settings": {"methods": ["prism", "sre2l", "random_real"]},
    "scenarios": {"b": {"title": "Second"}, "a": {"title": "First"}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A study whose accuracies are written by hand."""
    records = study_records({"a": CLEAR, "b": CLOSE})
    monkeypatch.setattr(study_report, "accuracy_records", lambda folder: records)
    return StudyFolder(tmp_path, Study.parse(STUDY, where="test"))


def test_the_answer_marks_the_best_and_its_equals(folder: StudyFolder) -> None:
    found = answer(folder)
    table = found.table
    assert list(table.columns) == ["Second", "First"]
    assert table.loc["random_real", "First"] == "91.1 ± 1.1 ●"
    assert table.loc["prism", "First"] == "81.0 ± 1.0"
    assert table.loc["prism", "Second"] == "81.7 ± 12.6 ●"
    assert table.loc["sre2l", "Second"] == "71.0 ± 10.5 ●"
    assert table.loc["random_real", "Second"] == "10.0 ± 1.0"
    assert found.note == (
        "Second: PRISM has the highest mean, 81.7 %; not told apart from it: SRe2L.\nFirst: Random "
        "real, a control that optimises nothing, leads with 91.1 %. Below random real images, "
        "beyond the 95 % interval over replicates: PRISM 81.0, SRe2L 51.0 against 91.1 %. Label "
        "teachers: 4."
    )


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([10.0, 10.0, 10.0], "No method is above chance, 10 %"),
        ([30.0, 40.0], "PRISM has the highest mean, 35.0 %; 2 replicates cannot decide whether"),
    ],
)
def test_chance_and_few_replicates_mark_nothing(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, values: list[float], verdict: str
) -> None:
    methods = {"prism": values, "sre2l": [value - 2 for value in values]}
    monkeypatch.setattr(study_report, "accuracy_records", lambda _: study_records({"a": methods}))
    found = answer(folder)
    assert found.note.startswith(f"First: {verdict}")
    assert "●" not in "".join(found.table["First"])


def test_results_of_scenarios_say_how_many_networks_label(
    tmp_path: Path, folder: StudyFolder
) -> None:
    hard = {"title": "First", "settings": {"labels": "hard", "student_loss": "ce"}}
    scenarios = {**STUDY["scenarios"], "a": hard}
    study = Study.parse({**STUDY, "scenarios": scenarios}, where="test")
    for result in (study_report.accuracy, study_report.pairs):
        assert set(result(folder).table["label teachers"]) == {4}
        found = result(StudyFolder(tmp_path, study))
        counts = found.table.groupby("scenario")["label teachers"].unique().map(list)
        assert counts.to_dict() == {"b": [4], "a": [0]}
        assert found.figure.layout.title.subtitle.text == "Label teachers: Second 4, First 0"


def records_of(values: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Build records from method -> replicate -> student."""
    return pd.DataFrame(
        [
            {"scenario": "s", "replicate": r, "method": m, "student": f"n{k}", "top1": value}
            for m, replicates in values.items()
            for r, students in enumerate(replicates)
            for k, value in enumerate(students)
        ]
    )


def test_a_replicate_counts_once_for_all_its_students() -> None:
    few = summarize(records_of({"a": [[25.0, 35.0], [20.0, 60.0], [10.0, 90.0]]})).iloc[0]
    means = np.array([30.0, 40.0, 50.0])
    half = stats.t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert (few["mean"], few["replicates"]) == (40.0, 3)
    assert few["std"] == pytest.approx(10.0)
    assert (few["low"], few["high"]) == pytest.approx((40 - half, 40 + half))
    assert (few["n0"], few["n1"]) == pytest.approx((55 / 3, 185 / 3))


def test_intervals_are_of_three_replicates_and_within_what_can_be() -> None:
    table = summarize(records_of({"a": [[1.0], [90.0], [99.0]], "b": [[1.0], [99.0]]}))
    assert table[["low", "high"]].iloc[0].tolist() == [0, 100]
    assert table[["low", "high"]].iloc[1].isna().all()


def test_pairs_are_scipys_paired_t_test_with_holms_correction() -> None:
    rng = np.random.default_rng(0)
    values = {m: (rng.normal(50 + 3 * i, 1, (5, 2))).tolist() for i, m in enumerate("abc")}
    pairs = compare_pairs(records_of(values)).set_index(["a", "b"])
    raw = {}
    for a, b in [("a", "b"), ("a", "c"), ("b", "c")]:
        x, y = (np.mean(values[m], axis=1) for m in (a, b))
        test = stats.ttest_rel(x, y)
        interval = test.confidence_interval(0.95)
        row = pairs.loc[(a, b)]
        assert row["difference"] == pytest.approx((x - y).mean())
        assert row["p"] == pytest.approx(test.pvalue)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        raw[a, b] = test.pvalue
    ordered = sorted(raw, key=lambda pair: raw[pair])
    least = 0.0
    for rank, pair in enumerate(ordered):  # Holm's step-down, literally
        least = max(least, min(1.0, raw[pair] * (3 - rank)))
        assert pairs.loc[pair]["p_holm"] == pytest.approx(least)
        better = pair[0] if pairs.loc[pair]["difference"] > 0 else pair[1]
        assert pairs.loc[pair]["winner"] == (better if least < 0.05 else "none")


@hypothesis_settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-40, 40))
def test_what_both_methods_share_cancels_out(shared: list[float], lead: float) -> None:
    noise = np.linspace(-0.1, 0.1, len(shared))
    records = records_of(
        {
            "a": [[value + lead + e] for value, e in zip(shared, noise, strict=True)],
            "b": [[value] for value in shared],
        }
    )
    pair = compare_pairs(records).iloc[0]
    half = stats.t.ppf(0.975, len(shared) - 1) * stats.sem(noise)
    assert pair["difference"] == pytest.approx(lead, abs=1e-6)
    assert pair["high"] - pair["low"] == pytest.approx(2 * half, abs=1e-6)


@pytest.mark.parametrize(("lead", "replicates"), [(0.0, 3), (2.0, 3), (80.0, 1)])
def test_differences_without_a_spread_decide_nothing(lead: float, replicates: int) -> None:
    """Accuracies move in steps of one test image, so that ties are ordinary."""
    records = records_of({"a": [[10.0]] * replicates, "b": [[10.0 + lead]] * replicates})
    intervals = summarize(records)[["low", "high", "std"]]
    assert intervals.isna().all(axis=None) == (replicates == 1)
    pair = compare_pairs(records).iloc[0]
    assert pair["difference"] == -lead
    assert np.isnan(pair["p"])
    assert pair["winner"] == "none"


def test_two_replicates_decide_nothing() -> None:
    values = {"a": [[10.0], [10.01]], "b": [[60.0], [60.02]], "c": [[60.0], [60.02]]}
    pair = compare_pairs(records_of(values)).iloc[0]
    assert pair["p_holm"] < 0.05
    assert pair["winner"] == "none"


def test_one_method_has_no_pairs() -> None:
    pairs = compare_pairs(records_of({"a": [[10.0], [20.0]]}))
    assert (list(pairs.columns), len(pairs)) == (PAIR_COLUMNS, 0)
