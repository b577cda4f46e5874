"""Treatments, classes and scores as tables, from records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.presets import protocol_sentence
from prism_nb.core.run import Run
from prism_nb.evaluation.dd_ranking import augmentation_robust_score, label_robust_score
from prism_nb.execution.pipeline import stage_units
from prism_nb.viz import tables

ALL: dict[str, Any] = {
    "methods": ["prism", "random_real"],
    "students": ["test_resnet"],
    "eval_variants": ["protocol", "no_aug", "hard_labels"],
    "train_on_real": True,
}
# By method and variant: top-1 of the two seeds.
KNOWN = {
    ("prism", "protocol"): (0.80, 0.84),
    ("prism", "plain"): (0.60, 0.64),
    ("prism", "hard"): (0.40, 0.44),
    ("random_real", "protocol"): (0.90, 0.90),
    ("random_real", "plain"): (0.50, 0.50),
    ("random_real", "hard"): (0.70, 0.70),
    ("real", "hard"): (0.98, 0.98),
}


def run_of(folder: Path, **changes: Any) -> Run:
    """Return a run whose students are done, with the accuracies of `KNOWN`."""
    run = Run.create(folder / "r", load_settings("digits_quick", {**ALL, **changes}))
    for unit in stage_units(run, "evaluation"):
        top1 = KNOWN[unit.params["method"], unit.params["variant"]][unit.params["seed"]]
        record = {"last": top1, "best": top1 + 0.01, "top5": 0.99, "per_class": [top1] * 10}
        run.finish(unit, paths=[], record=record)
    return run


def test_treatments_stand_side_by_side_with_the_ceiling_last(tmp_path: Path) -> None:
    table = tables.eval_variant_table(run_of(tmp_path))
    assert list(table.columns) == ["protocol", "no_aug", "hard_labels"]
    assert [images for images, _ in table.index] == ["PRISM", "Random real", "All real images"]
    assert list(table.loc[("PRISM", "test_resnet")]) == ["82.0 ± 2.8", "62.0 ± 2.8", "42.0 ± 2.8"]
    assert list(table.loc[("All real images", "test_resnet")]) == ["–", "–", "98.0 ± 0.0"]


def test_what_a_run_says_of_its_methods_is_by_its_protocol_alone(tmp_path: Path) -> None:
    table = tables.accuracy_table(run_of(tmp_path))
    assert list(table["method"]) == ["prism", "random_real"]
    assert list(table["mean"]) == pytest.approx([82.0, 90.0])
    assert list(table["top-5"]) == pytest.approx([99.0, 99.0])
    assert list(table["seeds"]) == [2, 2]


def test_classes_are_means_over_students_and_seeds(tmp_path: Path) -> None:
    table = tables.class_accuracy_table(run_of(tmp_path))
    assert list(table.columns) == ["prism", "random_real"]
    assert table.shape == (10, 2)
    assert table["prism"].to_numpy() == pytest.approx([82.0] * 10)


def test_scores_are_of_fractions_and_of_the_right_students(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    row = tables.score_table(run).loc[("PRISM", "test_resnet")]
    assert row["HLR"] == pytest.approx(0.98 - 0.42)
    assert row["IOR"] == pytest.approx(0.82 - 0.90)
    assert row["LRS"] == pytest.approx(label_robust_score(0.56, -0.08))
    assert row["ARS"] == pytest.approx(augmentation_robust_score(-0.08, 0.12))
    control = tables.score_table(run).loc[("Random real", "test_resnet")]
    assert control["IOR"] == 0
    assert tables.missing_for_scores(run) == []


@pytest.mark.parametrize(
    ("changes", "lost", "words"),
    [
        ({"train_on_real": False}, {"HLR", "LRS"}, ["train_on_real: true"]),
        ({"methods": ["prism"]}, {"IOR", "LRS", "ARS"}, ["methods: [..., random_real]"]),
        (
            {"eval_variants": ["protocol", "hard_labels"]},
            {"ARS"},
            ["eval_variants: [protocol, plain, hard]"],
        ),
    ],
)
def test_a_score_that_lacks_something_is_missing_and_says_what(
    tmp_path: Path, changes: dict[str, Any], lost: set[str], words: list[str]
) -> None:
    run = run_of(tmp_path, **changes)
    row = tables.score_table(run).iloc[0]
    assert {name for name, value in row.items() if math.isnan(value)} == lost
    assert tables.missing_for_scores(run) == words


def test_a_sentence_says_whose_protocol_it_is_and_what_departs_from_it() -> None:
    plain = load_settings("digits_quick", {"protocol": "cda", "student_batch": 7}).plain()
    assert protocol_sentence(plain) == "Protocol: CDA, but student_batch 7 (there 128)."
    whole = load_settings("digits_quick", {"protocol": "cda"}).plain()
    assert protocol_sentence(whole) == "Protocol: CDA."


def test_a_protocol_sentence_says_yes_and_no() -> None:
    plain = load_settings("digits_quick", {"label_flip": False}).plain()
    assert "label_flip no (there yes)" in protocol_sentence(plain)


def test_a_matrix_holds_means_and_deviations(tmp_path: Path) -> None:
    table = tables.transfer_table(tables.accuracy_table(run_of(tmp_path)))
    assert table.loc["prism", "test_resnet"] == "82.0 ± 2.8"
    assert list(table.index) == ["prism", "random_real"]


def test_settings_are_told_without_pythons_values(tmp_path: Path) -> None:
    told = tables.settings_table(run_of(tmp_path))["value"]
    assert told["train_on_real"] == "yes"
    assert not set(told) & {"None", "True", "False"}
