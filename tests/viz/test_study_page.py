"""The page of a study: what it says is what was measured."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from prism_nb import notebook
from prism_nb.core import unit_plan
from prism_nb.core.run import Run
from prism_nb.execution.study import Study, StudyFolder
from prism_nb.viz.figures.run import teacher_usage_figure
from prism_nb.viz.figures.study import (
    StudyLabels,
    accuracy_facets,
    cost_figure,
    fidelity_figure,
    pair_facets,
)
from prism_nb.viz.study_report import compare_pairs, study_answer_table, summary, verdicts
from prism_nb.viz.tables import bn_teacher_usage_table

NAMES = StudyLabels({"prism": "PRISM", "sre2l": "SRe2L"}, {"b": "Second", "a": "First"})
STUDY: dict[str, Any] = {
    "title": "T",
    "preset": "digits_quick",
    "settings": {"methods": ["prism", "sre2l", "random_real"]},
    "scenarios": {"b": {"title": "Second"}, "a": {"title": "First"}},
}


def records(means: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Build records of one student from scenario -> method -> value per replicate."""
    rows = [
        {"scenario": s, "replicate": r, "method": m, "student": "n", "top1": value}
        for s, methods in means.items()
        for m, values in methods.items()
        for r, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


CLEAR = {"prism": [80.0, 81.0, 82.0], "sre2l": [50.0, 51.1, 52.0], "random_real": [90.0, 91, 92.2]}
CLOSE = {"prism": [80.0, 70.0, 95.0], "sre2l": [81.0, 72.0, 60.0], "random_real": [10.0, 9, 11]}
RECORDS = records({"a": CLEAR, "b": CLOSE})
IMAGES = pd.DataFrame(
    [
        {
            "scenario": s,
            "replicate": 0,
            "method": m,
            "cosine": cosine,
            "recognised %": 20.0,
            "real cosine": 0.8,
            "real recognised %": 95.0,
            "seconds per image": 0.5,
        }
        for s, cosine in (("a", float("nan")), ("b", 0.3))
        for m in ("prism", "sre2l")
    ]
)


@pytest.fixture
def folder(tmp_path: Any) -> StudyFolder:
    return StudyFolder(tmp_path, Study.parse(STUDY, where="test"))


def test_the_answer_marks_leaders_and_whatever_is_not_told_apart(folder: StudyFolder) -> None:
    table = study_answer_table(folder, summary(RECORDS), compare_pairs(RECORDS))
    assert list(table.columns) == ["Second", "First"]
    assert table.loc["Random real", "First"] == "91.1 ± 1.1 ●"
    assert table.loc["PRISM", "First"] == "81.0 ± 1.0"
    assert table.loc["PRISM", "Second"] == "81.7 ± 12.6 ●"
    assert table.loc["SRe2L", "Second"] == "71.0 ± 10.5 ●"
    assert table.loc["Random real", "Second"] == "10.0 ± 1.0"


def test_the_verdict_leaves_no_control_out(folder: StudyFolder) -> None:
    second, first = verdicts(folder, summary(RECORDS), compare_pairs(RECORDS))
    assert second == "Second: PRISM leads with 81.7 %; not told apart from it: SRe2L."
    assert first.startswith("First: Random real leads with 91.1 %.")
    assert "A control that optimises nothing leads" in first


def test_panels_come_in_the_studys_order_with_interval_and_students() -> None:
    figure = accuracy_facets(summary(RECORDS), NAMES)
    assert [a.text for a in figure.layout.annotations[:2]] == ["Second", "First"]
    means = [trace for trace in figure.data if trace.name == "mean over students"]
    assert [list(trace.x) for trace in means] == [
        pytest.approx([81.667, 71.0, 10.0], abs=1e-3),
        pytest.approx([81.0, 51.033, 91.067], abs=1e-3),
    ]
    low = summary(RECORDS).set_index(["scenario", "method"]).loc[("a", "prism"), "low"]
    assert means[1].x[0] - means[1].error_x.arrayminus[0] == pytest.approx(low)
    assert sum(trace.name == "n" for trace in figure.data) == 2


def test_a_cell_of_the_pairs_is_row_minus_column() -> None:
    figure = pair_facets(compare_pairs(RECORDS), NAMES)
    panel = figure.data[1]
    place = {title: index for index, title in enumerate(panel.y)}
    prism, sre2l = place["PRISM"], place["SRe2L"]
    assert panel.z[prism][sre2l] == pytest.approx(81 - 51.0333, abs=1e-3)
    assert panel.z[sre2l][prism] == -panel.z[prism][sre2l]
    assert panel.text[prism][sre2l] == "+30.0 ●"
    assert figure.data[0].text[prism][sre2l] == "+10.7"


def test_undefined_diversity_is_left_out_and_real_images_stand_beside_it() -> None:
    figure = fidelity_figure(IMAGES, NAMES)
    prism, sre2l, real = figure.data
    assert (prism.name, sre2l.name, real.name) == ("PRISM", "SRe2L", "Real images (yardstick)")
    assert list(prism.y) == [0.3]
    assert (list(real.x), list(real.y)) == ([95.0], [0.8])


def test_cost_pairs_seconds_with_accuracy() -> None:
    figure = cost_figure(IMAGES, summary(RECORDS), NAMES)
    prism = next(trace for trace in figure.data if trace.name == "PRISM")
    assert list(prism.x) == [0.5, 0.5]
    assert sorted(prism.y) == pytest.approx([81.0, 81.667], abs=1e-3)


def test_presence_counts_the_steps_of_every_draw(run: Run) -> None:
    bn_teachers = {
        "resample_every": 10,
        "bn_teachers": [["test_resnet"], ["test_byobnet", "test_resnet"]],
    }
    for unit in unit_plan.synthesis_units(run, 10):
        optimised = unit.params["method"] != "random_real"
        record = {"draws": bn_teachers, "images": 20} if optimised else {"images": 20}
        run.file(unit.marker).parent.mkdir(parents=True, exist_ok=True)
        run.finish(unit, paths=[], record=record)
    run.write_classes([{"index": i, "folder": str(i), "name": str(i)} for i in range(10)])
    table = bn_teacher_usage_table(run)
    assert list(table.columns) == ["test_resnet", "test_byobnet"]
    assert len(table) == 2
    assert table["test_resnet"].tolist() == [100.0, 100.0]
    assert table["test_byobnet"].tolist() == [50.0, 50.0]  # ten of twenty steps
    assert math.isclose(teacher_usage_figure(table).data[0].z[0][1], 50.0)


def test_tables_of_a_study_are_told_in_titles(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(notebook, "display", lambda shown: said.append(shown.data))
    notebook.show_table(compare_pairs(RECORDS), folder)
    search = pd.DataFrame({"search": ["s"], "method": ["sre2l"], "chosen": [True]})
    notebook.show_table(search, folder)
    pairs, chosen = said
    for title in ("Random real", "PRISM", "Second"):
        assert f"<td>{title}</td>" in pairs
    assert "random_real" not in pairs
    assert "<td>SRe2L</td>" in chosen
    assert "<td>yes</td>" in chosen
