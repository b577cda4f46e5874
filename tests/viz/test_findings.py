"""Sentences on results: chance, too few repeats, ties, the random control, dominant networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.viz import findings, tables
from prism_nb.viz.classes import class_names
from prism_nb.viz.results import RUN_RESULTS
from tests.helpers.evaluated_run import evaluated_run

# --- Verdicts ---

SETTINGS = load_settings("digits_quick")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"prism": [12.0, 12.0, 12.0]}, "No method is above chance, 10 %: PRISM has the highest"),
        ({"prism": [13.0, 13.0, 13.0]}, "PRISM has 13.0 %, above chance, 10 %."),
        ({"prism": [50.0, 52, 54], "sre2l": [50.0, 52, 54]}, "not told apart from it: SRe2L"),
        ({"prism": [50.0, 52, 54], "sre2l": [40.0, 43, 44]}, "PRISM leads with 52.0 %."),
        ({"prism": [50.0], "sre2l": [40.0]}, "1 seed cannot decide whether it leads"),
    ],
)
def test_a_verdict_knows_chance_ties_and_too_few_seeds(
    values: dict[str, list[float]], expected: str
) -> None:
    table = pd.DataFrame(values)
    titles = {"prism": "PRISM", "sre2l": "SRe2L"}
    equals = findings.undecided(table)
    assert expected in findings.verdict(table, equals, SETTINGS, titles, "seeds")


def test_guesses_exceed_the_limit_once_in_forty_times() -> None:
    limit = findings.chance_limit(SETTINGS) * 540 / 100  # of 540 held-out digits
    assert stats.binom.sf(int(limit), 540, 0.1) == pytest.approx(0.025, abs=0.008)


# --- The random control ---


def sentence(**accuracies: list[float]) -> str:
    table = pd.DataFrame(accuracies)
    return findings.random_sentence(table, "r", {m: m.upper() for m in table}, "seeds")


def test_a_method_is_below_only_beyond_the_interval() -> None:
    below, close, control = [50.0, 52, 54], [60.0, 80, 75], [70.0, 71, 72]
    for values, told in ((below, True), (close, False)):
        differences = np.subtract(control, values)
        interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert (interval.low > 0) == told
    assert sentence(a=below, b=close, c=[90.0, 91, 93], r=control) == (
        "Below random real images, beyond the 95 % interval over seeds: A 52.0 against 71.0 %. "
        "Not told apart from random real images over seeds: B 71.7 against 71.0 %."
    )
    for one_value in ([1.0], [1.0, 1.0]):
        found = sentence(a=one_value, r=[9.0] * len(one_value))
        assert found.startswith("Not told apart")
    assert sentence(c=[90.0, 92], r=[70.0, 71]) == sentence(a=[1.0, 2]) == ""


@pytest.mark.parametrize("result", ["accuracy", "summary"])
def test_a_run_says_what_stands_below_random_images(
    result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated_run(tmp_path)
    monkeypatch.setattr("prism_nb.viz.tables.summary_table", lambda run: pd.DataFrame())
    text = "Not told apart from random real images over seeds: PRISM 82.0 against 90.0 %."
    assert text in RUN_RESULTS[result](run).note
    alone = Run(run.path, run.settings.replace(methods=["prism"]))
    assert "random real" not in RUN_RESULTS[result](alone).note


# --- What stands out ---


def test_classes_images_and_networks_that_stand_out_are_named_with_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated_run(tmp_path, methods=["prism", "random_real"])
    names = pd.Index(class_names(run), name="class")
    right = pd.DataFrame({"prism": 90.0, "random_real": 95.0}, names)
    right.loc["eight", "prism"], right.loc["two", "prism"] = 20.0, 30.0
    mistakes = pd.DataFrame(5.0, names, names)
    mistakes.loc["eight", ["eight", "zero"]] = 20.0, 40.0
    seen = pd.DataFrame({REFERENCE: 0.95, "prism": 0.4, "random_real": 0.9}, names)
    seen.loc["four", "prism"] = 0.0
    shares = [("prism", "gradient", "bn", "a", 96.0), ("prism", "gradient", "bn", "b", 4.0)]
    columns = ["method", "of", "term", "network", "share %"]
    pool = run.settings.teachers
    for name, value in {
        "class_accuracy_table": right,
        "confusion_matrix": mistakes,
        "class_metric_table": seen,
        "share_table": pd.DataFrame(shares, columns=columns),
        "drawn_networks": [[pool[0], pool[1]]] * 2,
    }.items():
        monkeypatch.setattr(tables, name, lambda *_, value=value: value)
    found = findings.stand_out(run)
    sections = ["accuracy", "confusions", "fidelity", "bn_shares", "bn_teachers"]
    assert [finding.section for finding in found] == sections
    (_, failing, unseen, pull, draws) = [finding.text for finding in found]
    assert failing == (
        "PRISM: class eight fails with 20.0 %, where all classes have 77.0 %; 40.0 % of its images "
        "are taken for zero. So do two (30.0 %)."
    )
    assert unseen == (
        "PRISM: 36 % of the images are recognised by test_mambaout, 95 % of real ones; none of "
        "four."
    )
    assert pull.startswith("PRISM: a has 96% of the BN teachers' pull")
    assert draws == f"PRISM never drew {pool[2]}, {pool[3]}: 2 draws of its BN teachers in all."


def test_a_run_in_which_nothing_fails_has_its_verdict_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated_run(tmp_path)
    names = pd.Index(class_names(run), name="class")
    seen = pd.DataFrame({"prism": 0.9, "random_real": 0.9}, names)
    empty = pd.DataFrame(columns=["method", "of", "term", "network", "share %"])
    monkeypatch.setattr(tables, "class_metric_table", lambda *_: seen)
    monkeypatch.setattr(tables, "share_table", lambda _: empty)
    monkeypatch.setattr(tables, "drawn_networks", lambda *_: [])
    assert [finding.section for finding in findings.stand_out(run)] == ["accuracy"]


# --- Networks ---


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ({"a": 0.46, "b": 0.04}, "M: a has 92% of the BN teachers' pull: the others hardly count"),
        ({"a": 4.0, "b": 46.0}, "M: b has 92% of the BN teachers' pull: the others hardly count"),
        ({"a": 0.9, "b": 0.1}, ""),
        ({"a": 1.0}, ""),
        ({"a": 0.0, "b": 0.0}, ""),
        ({}, ""),
    ],
)
def test_one_teacher_with_nearly_all_is_named(shares: dict[str, float], found: str) -> None:
    sentence = findings.dominance({"other": {"a": 1.0, "b": 1.0}, "M": shares})
    assert sentence.startswith(found)
    assert bool(sentence) == bool(found)
