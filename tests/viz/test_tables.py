"""Tables of a run, from records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prism_nb.core import unit_plan
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.dd_ranking import dd_ranking_scores
from prism_nb.viz import tables
from tests.helpers.evaluated_run import evaluated_run


@pytest.fixture
def evaluated(tmp_path: Path) -> Run:
    return evaluated_run(tmp_path)


# --- Students ---


def test_accuracies_are_those_of_the_protocol(evaluated: Run) -> None:
    table = tables.accuracy_table(evaluated)
    assert list(table["method"]) == ["prism", "random_real"]
    assert list(table["mean"]) == pytest.approx([82.0, 90.0])
    assert list(table["top-5"]) == pytest.approx([99.0, 99.0])
    assert list(table["seeds"]) == [2, 2]
    assert tables.transfer_table(table).loc["prism", "test_resnet"] == "82.0 ± 2.8"
    assert tables.class_accuracy_table(evaluated)["prism"].to_numpy() == pytest.approx([82.0] * 10)


def test_variants_are_columns_and_real_images_the_last_row(evaluated: Run) -> None:
    table = tables.eval_variant_table(evaluated)
    assert list(table.pop("label teachers")) == [4, 4, 0]
    assert list(table.columns) == ["protocol", "no_aug", "hard_labels"]
    assert [images for images, _ in table.index] == ["prism", "random_real", "All real images"]
    assert list(table.loc[("prism", "test_resnet")]) == ["82.0 ± 2.8", "62.0 ± 2.8", "42.0 ± 2.8"]
    assert list(table.loc[("All real images", "test_resnet")]) == ["–", "–", "98.0 ± 0.0"]


def test_scores_are_of_fractions_and_of_the_right_students(evaluated: Run) -> None:
    table = tables.score_table(evaluated)
    expected = dd_ranking_scores(
        full=0.98, hard=0.42, soft=0.82, random=0.9, no_aug=0.62, random_no_aug=0.5
    )
    assert table.loc[("prism", "test_resnet")].to_dict() == pytest.approx(expected)
    assert table.loc[("random_real", "test_resnet"), "IOR"] == 0


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"train_on_real": False}, {"HLR", "LRS"}),
        ({"methods": ["prism"]}, {"IOR", "LRS", "ARS"}),
        ({"eval_variants": ["protocol", "hard_labels"]}, {"ARS"}),
    ],
)
def test_a_score_that_lacks_something_is_undefined(
    tmp_path: Path, changes: dict[str, Any], lost: set[str]
) -> None:
    row = tables.score_table(evaluated_run(tmp_path, **changes)).iloc[0]
    assert {name for name, value in row.items() if math.isnan(value)} == lost


def test_gains_are_differences_to_the_baseline_in_ascending_order() -> None:
    classes = pd.DataFrame(
        {"prism": [50.0, 60.0, 70.0], "sre2l": [55.0, 40.0, 70.0]}, index=["a", "b", "c"]
    )
    gains = tables.class_gain_table(classes, "sre2l")
    assert gains["prism"].to_dict() == {"a": -5.0, "c": 0.0, "b": 20.0}
    assert list(gains.index) == ["a", "c", "b"]


def test_mistakes_are_ranked_without_right_predictions() -> None:
    names = ["ape", "bee", "cat"]
    shares = [[90, 10, 0], [5, 70, 25], [np.nan] * 3]  # no held-out image of a cat
    found = tables.top_confusions(pd.DataFrame(shares, index=names, columns=names), most=5)
    rows = [["bee", "cat", 25.0], ["ape", "bee", 10.0], ["bee", "ape", 5.0]]
    assert found.rename_axis("class").reset_index().to_numpy().tolist() == rows


def test_a_confusion_matrix_adds_the_seeds_up(evaluated: Run) -> None:
    for unit in tables.protocol_units(evaluated):
        path = evaluated.file(f"{unit.params['folder']}/confusion.csv")
        path.write_text(f"class,predicted,images\n3,3,1\n3,5,{unit.params['seed']}\n")
    shares = tables.confusion_matrix(evaluated, "prism", "test_resnet")
    assert shares.loc["three", "five"] == pytest.approx(100 / 3)
    assert shares.loc["three"].sum() == pytest.approx(100)


# --- Synthesis ---


def test_usage_counts_the_draws(run: Run) -> None:
    draws = [["test_resnet"], ["test_byobnet", "test_resnet"]]
    record = {"images": 20, "seconds": 1, "draws": {"resample_every": 10, "bn_teachers": draws}}
    plain = {"images": 20, "seconds": 1}
    for unit in unit_plan.synthesis_units(run, 10):
        optimised = unit.params["method"] != "random_real"
        run.units.finish(unit, paths=[], record=record if optimised else plain)
    run.write_classes(open_dataset(run.settings).class_records())
    table = tables.bn_teacher_usage_table(run)
    assert table.to_dict("list") == {"test_resnet": [100.0] * 2, "test_byobnet": [50.0] * 2}
    names = ["test_resnet, test_byobnet"] * 2 + ["none (not optimised)"]
    assert tables.unit_table(run)["BN teachers"].to_list() == names


def test_loss_curves_are_those_of_the_latest_attempt(run: Run) -> None:
    unit = "prism/images000-001_classes000-009"
    for values in ((5.0, 4.0), (3.0, 2.0)):
        run.events.append("synthesis", event="unit_start", unit=unit)
        for step, value in enumerate(values):
            event = {"event": "step", "unit": unit, "step": step, "steps": 2}
            run.events.append("synthesis", **event, losses={"logit/a": value})
    table = tables.loss_table(run)
    assert table["value"].tolist() == [3.0, 2.0]
    assert set(table["method"]) == {"prism"}
