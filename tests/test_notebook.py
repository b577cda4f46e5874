"""What notebooks show: methods by their titles, figures in the ink of the page."""

import os
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from prism_nb import notebook
from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.viz.figures.run import matrix_figure
from prism_nb.viz.html import contact_sheet

ACCURACIES = pd.DataFrame(
    {"method": ["prism", "random_real"], "student": "a", "mean": [90.0, 70.0], "std": 1.0}
)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is displayed: HTML as text, anything else as it is."""
    shown: list[Any] = []
    monkeypatch.setattr(
        notebook, "display", lambda *many, **_: shown.extend(getattr(o, "data", o) for o in many)
    )
    return shown


def test_a_shown_table_names_methods_by_title_and_its_csv_by_name(
    run: Run, said: list[Any]
) -> None:
    figure = matrix_figure(ACCURACIES, notebook.method_titles(run))
    notebook.show_figure(run, "matrix", figure, ACCURACIES)
    bundle, table, _ = said
    assert "<td>PRISM</td>" in table
    assert "<td>Random real</td>" in table
    assert "random_real" not in run.file("figures/matrix.html").read_text().split("<table")[1]
    assert "random_real" in run.file("figures/matrix.csv").read_text()
    (content,) = [value for kind, value in bundle.items() if "plotly" in kind]
    assert content["layout"]["template"]["layout"]["modebar"]["remove"] == ["sendChartToCloud"]


def test_methods_at_the_head_of_columns_and_rows_have_titles(run: Run, said: list[Any]) -> None:
    wide = ACCURACIES.pivot_table("mean", "student", "method")
    notebook.show_table(wide, run)
    notebook.show_table(wide.T, run)
    for table in said:
        assert ">PRISM<" in table
        assert "random_real" not in table


def test_an_opened_run_brings_the_look_of_figures(run: Run, said: list[Any]) -> None:
    notebook.open_run({"run_name": run.name, "runs_dir": str(run.path.parent)})
    assert "currentColor" in said[0]


@pytest.mark.parametrize("writable", [False, True])
def test_figures_are_shown_and_saved_only_where_they_can_be(
    run: Run, said: list[Any], monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: writable or path != run.path)
    notebook.show_figure(run, "f", go.Figure(), ACCURACIES)
    picture = contact_sheet(torch.zeros(1, 3, 4, 4), columns=1)
    notebook.show_picture(run, "p", picture, caption="A picture")
    words = "saved as <code>figures/f.html</code>" if writable else "for reading alone"
    assert any(words in each for each in said if isinstance(each, str))
    assert "<b>A picture</b>" in said
    assert fileio.is_file(run.file("figures/f.html")) == writable
    assert fileio.is_file(run.file(f"figures/p.{picture.kind}")) == writable
