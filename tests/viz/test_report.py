"""The report: every figure has its numbers, in words, on a page that is light or dark."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from prism_nb.core.run import Run
from prism_nb.viz import report, tables
from prism_nb.viz.figures.run import matrix_figure
from prism_nb.viz.report import render_page, section
from tests.viz.test_scoreboard import run_of

TITLES = {"prism": "PRISM", "random_real": "Random real"}
ENVIRONMENT = {"commit": "c", "machine": "m", "python": "3", "versions": {}}


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose students are done, with learning curves of two epochs."""
    run = run_of(tmp_path)
    for unit in tables.protocol_units(run):
        path = run.file(f"{unit.params['folder']}/metrics.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("epoch,top1\n1,0.5\n2,0.6\n")
    trade = pd.DataFrame(
        {"top-1 %": 80.0, "intra-class cosine": 0.5, "recognised %": 90.0},
        index=pd.Index(TITLES, name="method"),
    )
    monkeypatch.setattr(tables, "tradeoff_table", lambda _: trade)
    return run


def test_every_figure_of_the_students_has_its_numbers(learned: Run) -> None:
    sections = {s.title: s for s in report._learned(learned, TITLES)}
    assert all(s.table for s in sections.values() if s.figure and "takes for what" not in s.title)
    assert "82.0 ± 2.8" in sections["From student to student"].table
    assert ">epoch 2<" in sections["How they learned"].table
    assert not [s.title for s in sections.values() if "random_real" in s.table]


def test_a_page_is_light_or_dark_and_so_are_its_figures(learned: Run) -> None:
    accuracies = tables.accuracy_table(learned)
    shown = section("Matrix", matrix_figure(accuracies, TITLES), accuracies)
    page = render_page("base.html", sections=[shown], environment=ENVIRONMENT)
    style = page.split("<style>")[1].split("</style>")[0]
    assert "prefers-color-scheme: dark" in style
    assert ".infolayer text" in style
    assert '"showSendToCloud": false' in page
