"""A run beside published results: the right rows, in words that do not claim too much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.presets import protocol_metadata, protocol_names
from prism_nb.core.run import Run
from prism_nb.viz import report, tables
from prism_nb.viz.figures.run import PUBLISHED_COLOUR, context_figure
from prism_nb.viz.style import colour_of

ROOT = Path(__file__).parents[2]
METHODS = ["prism", "random_real"]
STUDENTS = ["mobilenet_v2", "torchvision/resnet18", "test_resnet"]


def run_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """Return a run with made-up accuracies; no such run was ever carried out."""
    values = {
        "dataset": "imagenet1k",
        "image_size": 224,
        "ipc": 10,
        "methods": METHODS,
        "students": STUDENTS,
        **changes,
    }
    settings = load_settings("digits_quick", values)
    rows = [
        {
            "method": method,
            "student": student,
            "mean": 10.0 * at + place,
            "std": np.nan if method == "random_real" else 0.5,
            "best epoch": 99.0,
            "seeds": 2,
        }
        for at, method in enumerate(settings.methods, start=1)
        for place, student in enumerate(settings.students)
    ]
    monkeypatch.setattr(tables, "accuracy_table", lambda run: pd.DataFrame(rows))
    return Run(tmp_path / "r", settings)


def published_by_hand(student: str, ipc: int) -> list[tuple[str, float]]:
    """Read the published rows without pandas and without the kit, best first."""
    lines = (ROOT / "data" / "published_results.csv").read_text().splitlines()[1:]
    cells = [line.split(",") for line in lines]
    found = [
        (c[0], float(c[4]))
        for c in cells
        if c[1] == "imagenet1k" and c[2] == student and c[3] == str(ipc)
    ]
    return sorted(found, key=lambda row: -row[1])


def test_the_published_table_is_whole() -> None:
    frame = report.published_results()
    key = ["method", "dataset", "student", "ipc"]
    assert not frame.duplicated(key).any()
    assert not frame.drop(columns="std").isna().any().any()
    assert frame["top1"].between(0, 100).all()
    assert frame["std"].dropna().between(0, 5).all()
    assert (frame["ipc"] > 0).all()
    assert frame["source"].str.len().gt(5).all()
    assert len(frame) == 73


def test_more_images_of_a_method_teach_more_in_every_published_row() -> None:
    groups = report.published_results().sort_values("ipc").groupby(["method", "student"])
    assert all(group["top1"].is_monotonic_increasing for _, group in groups)


def test_every_protocol_but_the_kits_own_is_of_a_method_by_its_published_name() -> None:
    titles = {protocol_metadata(name)["title"] for name in protocol_names()}
    known = set(report.published_results()["method"])
    assert titles - known == {"PRISM", "the kit's fair protocol"}


def test_rows_are_those_of_the_same_dataset_student_and_ipc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = report.context_table(run_of(tmp_path, monkeypatch))
    assert list(dict.fromkeys(table["student"])) == STUDENTS[:2]
    for place, (student, plain) in enumerate(
        [("mobilenet_v2", "mobilenet_v2"), ("torchvision/resnet18", "resnet18")]
    ):
        mine = table[table["student"] == student]
        own = mine[mine["source"] == report.THIS_RUN]
        assert own["mean"].tolist() == [10.0 + place, 20.0 + place]
        assert own["title"].tolist() == ["PRISM", "Random real"]
        theirs = mine.iloc[len(own) :]
        expected = published_by_hand(plain, 10)
        assert list(zip(theirs["method"], theirs["mean"], strict=True)) == expected
        assert theirs["title"].tolist() == [f"{name} (published)" for name, _ in expected]
    assert set(table["ipc"]) == {10}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "digits"}, "is of digits with mobilenet_v2 or"),
        ({"ipc": 7}, "at 7 images per class"),
        ({"students": ["test_resnet"]}, "with test_resnet at 10 images"),
        ({"eval_split": "tuning"}, "scores on part of the training images"),
    ],
)
def test_where_nothing_fits_that_is_said_and_nothing_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    run = run_of(tmp_path, monkeypatch, **changes)
    table = report.context_table(run)
    assert len(table) == 0
    assert list(table.columns) == list(report.COLUMNS)
    caption = report.context_caption(run, table)
    assert words in caption
    assert "nothing stands beside" in caption
    figure = context_figure(table)
    assert len(figure.data) == 0
    assert "Nothing on record" in figure.layout.title.text
    assert figure.layout.xaxis.visible is False


def test_the_caption_names_what_differs_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = {"label_epochs": 300, "student_batch": 20, "label_crop_min": 0.08}
    run = run_of(tmp_path, monkeypatch, **protocol, students=["resnet18"])
    caption = report.context_caption(run, report.context_table(run))
    assert "This run: 300 epochs, batch 20, loss MSE + 0.1 CE, crops from 0.08" in caption
    assert "G-VBSM: batch 1024, the rest as here." in caption
    assert "SRe2L: batch 1024, loss KL at T=20, the rest as here." in caption
    assert "EDC: batch 100, loss MSE + 0.025 CE, crops from 0.5 of the area," in caption
    assert re.search(r"Not on record: the protocols of [^.]*CV-DD", caption)
    assert "PRISM:" not in caption
    assert "pixels a side" not in caption
    small = run_of(tmp_path, monkeypatch, image_size=64, label_mix="none", ce_weight=0.0)
    caption = report.context_caption(small, report.context_table(small))
    assert "Published images have 224 pixels a side, those of this run 64." in caption
    assert "loss MSE, crops from 0.25 of the area, no mixing." in caption
    assert "CutMix" in caption


def test_a_protocol_that_agrees_is_said_to_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = {"label_epochs": 300, "student_batch": 1024, "label_crop_min": 0.08}
    run = run_of(tmp_path, monkeypatch, **protocol)
    caption = report.context_caption(run, report.context_table(run))
    assert "G-VBSM: all of that as here." in caption


def test_the_figure_colours_the_runs_methods_and_leaves_others_grey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = report.context_table(run_of(tmp_path, monkeypatch))
    figure = context_figure(table)
    drawn = {
        (trace.xaxis, title): (value, colour)
        for trace in figure.data
        for title, value, colour in zip(trace.y, trace.x, trace.marker.color, strict=True)
    }
    assert len(drawn) == len(table)
    for _, row in table.iterrows():
        axis = "x" if row["student"] == "mobilenet_v2" else "x2"
        own = row["source"] == report.THIS_RUN
        colour = colour_of(row["method"]) if own else PUBLISHED_COLOUR
        assert drawn[axis, row["title"]] == (row["mean"], colour)
    for trace in figure.data:
        student = "mobilenet_v2" if trace.xaxis == "x" else "torchvision/resnet18"
        mine = table[table["student"] == student]
        spread = dict(zip(mine["title"], mine["std"], strict=True))
        unknown = [np.isnan(spread[title]) for title in trace.y]
        assert trace.error_x.array is None if all(unknown) else not any(unknown)
    assert "%" in figure.layout.xaxis2.title.text
    assert list(figure.layout.yaxis.categoryarray) == list(
        table.loc[table["student"] == "mobilenet_v2", "title"]
    )


@pytest.mark.parametrize("content", [None, "", "method,top1\nSRe2L,3\n"])
def test_a_damaged_table_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    (tmp_path / "data").mkdir()
    if content is not None:
        (tmp_path / "data" / "published_results.csv").write_text(content)
    monkeypatch.setattr(report, "project_root", lambda: tmp_path)
    with pytest.raises(PrismError, match="published_results.csv .*restore it with git"):
        report.published_results()
