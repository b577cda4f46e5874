"""Published results beside a run's: names, bands, and the protocols they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.presets import PROTOCOLS, protocol_metadata
from prism_nb.core.run import Run
from prism_nb.viz import published


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
    monkeypatch.setattr(published, "accuracy_table", lambda run: pd.DataFrame(rows))
    return Run(tmp_path / "r", settings)


def test_published_results_are_plausible() -> None:
    frame = published.published_results()
    assert not frame.duplicated(["method", "dataset", "student", "ipc"]).any()
    assert not frame.drop(columns=["std", "label teachers"]).isna().any().any()
    assert frame["top1"].between(0, 100).all()
    assert len(frame) == 116
    groups = frame.sort_values("ipc").groupby(["method", "dataset", "student"])
    assert all(group["top1"].is_monotonic_increasing for _, group in groups)


def test_hosted_sets_are_listed_once_and_none_has_a_number_at_second_hand() -> None:
    frame = published.published_sets()
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
    assert published.published_name(Run(tmp_path / "r", settings), method) == name


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
    monkeypatch.setattr(published, "accuracy_table", lambda run: pd.DataFrame([row]))
    (found,) = published.published_bands(run)
    assert sentence in found
    assert (method == "sre2l") == ("batch 1024 (here " in found)


def test_protocols_have_the_names_of_published_methods() -> None:
    titles = {protocol_metadata(name)["title"] for name in PROTOCOLS.names()}
    known = set(published.published_results()["method"])
    assert titles - known == {
        *("PRISM", "the kit's fair protocol", "RD3", "BSSL"),
        *("rethinkdc, soft labels", "rethinkdc, hard labels"),
    }


def test_published_rows_are_of_the_same_dataset_student_and_ipc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = published.published_table(published_run(tmp_path, monkeypatch))
    students = ["mobilenet_v2", "torchvision/resnet18"]
    assert list(dict.fromkeys(table["student"])) == students
    known = published.published_results().query("dataset == 'imagenet1k' and ipc == 10")
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
    assert not len(published.published_table(run))
    assert published.published_bands(run) == []


def test_the_protocol_table_has_the_runs_values_first(run: Run) -> None:
    table = published.protocol_table(run)
    assert table.index[0] == published.THIS_RUN
    assert table.loc["this run", "batch"] == run.settings.plain()["student_batch"]
    assert table.loc["SRe2L", ["batch", "loss", "label teachers"]].tolist() == [1024, "kl", 1]
    assert table["label teachers"].iloc[0] == run.settings.label_teacher_count
    assert "PRISM" not in table.index
