"""Tables of a run, from records written by hand; classes by their names."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prism_nb.core import unit_plan
from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import PROTOCOLS, protocol_metadata
from prism_nb.core.run import Run
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.dd_ranking import dd_ranking_scores
from prism_nb.viz import tables
from prism_nb.viz.tables import class_label, parse_class_selection
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


# --- Published results ---


def published_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """Return a run with made-up accuracies of 10, 11, ... percent."""
    values = {
        "dataset": "imagenet1k",
        "image_size": 224,
        "ipc": 10,
        "methods": ["prism"],
        "students": ["mobilenet_v2", "torchvision/resnet18", "test_resnet"],
        **changes,
    }
    settings = load_settings("digits_quick", values)
    rows = [
        {"method": "prism", "student": student, "mean": 10.0 + i, "std": 0.5}
        for i, student in enumerate(settings.students)
    ]
    monkeypatch.setattr(tables, "accuracy_table", lambda run: pd.DataFrame(rows))
    return Run(tmp_path / "r", settings)


def test_published_results_are_plausible() -> None:
    frame = tables.published_results()
    assert not frame.duplicated(["method", "dataset", "student", "ipc"]).any()
    assert not frame.drop(columns=["std", "label teachers"]).isna().any().any()
    assert frame["top1"].between(0, 100).all()
    assert len(frame) == 116
    groups = frame.sort_values("ipc").groupby(["method", "dataset", "student"])
    assert all(group["top1"].is_monotonic_increasing for _, group in groups)


def test_hosted_sets_are_listed_once_and_none_has_a_number_at_second_hand() -> None:
    frame = tables.published_sets()
    assert frame["name"].is_unique
    assert frame["where"].str.endswith(tuple(frame["name"])).all()
    assert frame["top1"].isna().all()
    assert len(frame) == 36


@pytest.mark.parametrize(
    ("method", "source", "name"),
    [
        ("fadrm_plus", None, "FADRM+"),
        ("prism", None, None),
        ("sre2l_published", "/sets/theirs", "SRe2L"),
        ("theirs", "/sets/2025-rethinkdc-imagenet-gvbsm-ipc-10/data", "G-VBSM"),
        ("theirs", "/sets/theirs", None),
    ],
)
def test_the_published_name_of_a_method_is_found(
    tmp_path: Path, method: str, source: str | None, name: str | None
) -> None:
    recipes = {method: {"base": "imported", "source": source}} if source else {}
    settings = load_settings("digits_quick", {"methods": [method], "recipes": recipes})
    assert tables.published_name(Run(tmp_path / "r", settings), method) == name


@pytest.mark.parametrize(
    ("method", "mean", "sentence"),
    [
        ("sre2l", 20.8, "20.8 % is inside the published band of SRe2L, 20.7 to 21.9 %; its"),
        ("sre2l", 20.6, "20.6 % is below the published band of SRe2L"),
        ("fadrm", 48.9, "48.9 % is above the published band of FADRM, 46.7 to 48.8 %; how its"),
    ],
)
def test_a_band_is_of_all_numbers_of_a_method_with_their_deviations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, mean: float, sentence: str
) -> None:
    run = published_run(tmp_path, monkeypatch, methods=[method], students=["resnet18"])
    row = {"method": method, "student": "resnet18", "mean": mean, "std": 0.5}
    monkeypatch.setattr(tables, "accuracy_table", lambda run: pd.DataFrame([row]))
    (found,) = tables.published_bands(run)
    assert sentence in found
    assert (method == "sre2l") == ("batch 1024 (here " in found)


def test_protocols_have_the_names_of_published_methods() -> None:
    titles = {protocol_metadata(name)["title"] for name in PROTOCOLS.names()}
    known = set(tables.published_results()["method"])
    assert titles - known == {
        *("PRISM", "the kit's fair protocol", "RD3", "BSSL"),
        *("rethinkdc, soft labels", "rethinkdc, hard labels"),
    }


def test_published_rows_are_of_the_same_dataset_student_and_ipc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables.published_table(published_run(tmp_path, monkeypatch))
    students = ["mobilenet_v2", "torchvision/resnet18"]
    assert list(dict.fromkeys(table["student"])) == students
    known = tables.published_results().query("dataset == 'imagenet1k' and ipc == 10")
    for i, student in enumerate(students):
        own, *theirs = table[table["student"] == student].itertuples(index=False)
        assert (own.title, own.ipc, own.mean, own.source) == ("PRISM", 10, 10.0 + i, "this run")
        rows = known[known["student"] == student.removeprefix("torchvision/")]
        assert {row.method: row.mean for row in theirs} == dict(
            zip(rows["method"], rows["top1"], strict=True)
        )
        assert [row.mean for row in theirs] == sorted(rows["top1"], reverse=True)


@pytest.mark.parametrize("changes", [{"dataset": "digits"}, {"ipc": 7}, {"eval_split": "tuning"}])
def test_without_published_rows_the_table_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    run = published_run(tmp_path, monkeypatch, **changes)
    assert not len(tables.published_table(run))
    assert tables.published_bands(run) == []


def test_the_protocol_table_has_the_runs_values_first(run: Run) -> None:
    table = tables.protocol_table(run)
    assert table.index[0] == tables.THIS_RUN
    assert table.loc["this run", "batch"] == run.settings.plain()["student_batch"]
    assert table.loc["SRe2L", ["batch", "loss", "label teachers"]].tolist() == [1024, "kl", 1]
    assert table["label teachers"].iloc[0] == run.settings.label_teacher_count
    assert "PRISM" not in table.index


# --- Classes ---

CLASSES = (
    ClassInfo(0, "n01440764", "tench, Tinca tinca"),
    ClassInfo(1, "n02012849", "crane"),
    ClassInfo(2, "n03126707", "crane"),
    ClassInfo(3, "n02123045", "tabby, tabby cat"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 1, 2, 3)),
        ("  All classes ", (0, 1, 2, 3)),
        ("2", (2,)),
        ("1-3", (1, 2, 3)),
        ("3, 0, 3", (3, 0)),
        ("0 · tench", (0,)),
        ("Tench", (0,)),
        ("tench, Tinca tinca", (0,)),
        ("tinca tinca", (0,)),
        ("n03126707", (2,)),
        ("tabby cat, 1", (3, 1)),
    ],
)
def test_classes_are_named_in_many_ways(text: str, expected: tuple[int, ...]) -> None:
    assert parse_class_selection(text, CLASSES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "numbered from 0 to 3"),
        ("3-1", "numbered from 0 to 3"),
        ("crane", r"several classes; give a number: \[1, 2\]"),
        ("tabbi", "no class 'tabbi'; did you mean"),
    ],
)
def test_what_names_no_class_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_class_selection(text, CLASSES)


def test_class_names_are_unique_and_labels_lead_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "open_dataset", lambda _: SimpleNamespace(classes=CLASSES))
    crane = "crane (n02012849)", "crane (n03126707)"
    assert tables.class_names(run)[:3] == ["tench, Tinca tinca", *crane]
    for info in CLASSES:
        assert parse_class_selection(class_label(info), CLASSES) == (info.index,)
