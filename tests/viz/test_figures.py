"""Figures and pages: the numbers given are the numbers shown, and nothing reaches the network."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from prism_nb.core.run import Run
from prism_nb.viz.figures.run import (
    accuracy_figure,
    class_figure,
    diversity_figure,
    learning_figure,
    loss_figure,
    matrix_figure,
    tradeoff_figure,
)
from prism_nb.viz.html import contact_sheet, save_figure, table_html
from prism_nb.viz.style import colour_of

ACCURACIES = pd.DataFrame(
    {
        "method": ["prism", "sre2l"],
        "student": ["a", "a"],
        "mean": [90.0, 70.0],
        "std": [1.5, float("nan")],
        "best epoch": [91.0, 71.0],
        "seeds": [3, 1],
    }
)


def test_bars_carry_means_and_spreads() -> None:
    figure = accuracy_figure(ACCURACIES, {"prism": "PRISM", "sre2l": "SRe2L"})
    assert [bar.name for bar in figure.data] == ["PRISM", "SRe2L"]
    assert [bar.y[0] for bar in figure.data] == [90.0, 70.0]
    assert [bar.error_y.array[0] for bar in figure.data] == [1.5, 0.0]
    assert "%" in figure.layout.yaxis.title.text


def test_a_method_has_one_colour_in_every_figure() -> None:
    per_class = pd.DataFrame({"method": ["prism"], "class": ["one"], "cosine": [0.5]})
    losses = pd.DataFrame(
        {"method": ["prism"], "unit": ["u"], "step": [1], "term": ["t"], "value": [1.0]}
    )
    line = diversity_figure(per_class, {}).data[0].line.color
    assert line == colour_of("prism") == accuracy_figure(ACCURACIES, {}).data[0].marker.color
    assert loss_figure(losses, {}).data[0].line.color.startswith("rgba(68,119,170")


def test_losses_are_averaged_over_units() -> None:
    rows = [
        ("prism", unit, step, "bn/x", float(step * factor))
        for unit, factor in (("u", 1), ("v", 3))
        for step in (1, 2)
    ]
    frame = pd.DataFrame(rows, columns=["method", "unit", "step", "term", "value"])
    (curve,) = loss_figure(frame, {"prism": "PRISM"}).data
    assert curve.name == "PRISM: bn/x"
    assert list(curve.x) == [1, 2]
    assert list(curve.y) == [2.0, 4.0]


def test_tables_escape_names_and_dash_what_is_missing() -> None:
    frame = pd.DataFrame(
        {"value": [1234.56, 0.12345, float("nan")]}, index=pd.Index(["<b>", "y", "z"], name="name")
    )
    html = table_html(frame)
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "1234.6" in html
    assert "0.123" in html
    assert "–" in html
    assert frame.index.name == "name"


def test_a_saved_figure_stands_alone_beside_its_library(run: Run) -> None:
    path = save_figure(run, "accuracy", accuracy_figure(ACCURACIES, {}), ACCURACIES)
    page = run.file(path).read_text()
    assert 'src="plotly.min.js"' in page
    assert "//cdn" not in page
    assert "prefers-color-scheme: dark" in page
    assert run.file("figures/plotly.min.js").stat().st_size > 1_000_000
    numbers = pd.read_csv(run.file("figures/accuracy.csv"))
    assert numbers["mean"].tolist() == [90.0, 70.0]


@pytest.mark.parametrize(("columns", "zoom"), [(2, 4), (40, 3), (120, 1)])
def test_a_contact_sheet_shows_every_pixel_in_its_place(columns: int, zoom: int) -> None:
    images = torch.randint(0, 256, (2 * columns + 1, 3, 7, 7), dtype=torch.uint8)
    found = contact_sheet(images, columns=columns)
    assert found.kind == "png"
    sheet = Image.open(io.BytesIO(found.content))
    assert sheet.size == ((columns * 9 - 2) * zoom, (3 * 9 - 2) * zoom)
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(sheet.size[1], sheet.size[0], 3)[::zoom, ::zoom].permute(2, 0, 1)
    for index, image in enumerate(images):
        top, left = (index // columns) * 9, (index % columns) * 9
        assert torch.equal(pixels[:, top : top + 7, left : left + 7], image)


def test_a_contact_sheet_of_large_images_shows_their_means_and_stays_small() -> None:
    grey = torch.arange(0, 200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 224, 224)
    noise = torch.randint(-40, 41, grey.shape)
    images = (grey + noise).clamp(0, 255).to(torch.uint8)
    found = contact_sheet(images, columns=10)
    assert found.kind == "jpeg"
    assert len(found.content) < 2_000_000  # five of them leave a report below 20 MB
    sheet = torch.tensor(np.array(Image.open(io.BytesIO(found.content)))).float()
    assert sheet.shape == (20 * 92 - 2, 10 * 92 - 2, 3)
    for index in (60, 111, 150):  # where no noise is clamped
        top, left = (index // 10) * 92, (index % 10) * 92
        tile = sheet[top + 8 : top + 82, left + 8 : left + 82]
        assert tile.mean().item() == pytest.approx(float(images[index].float().mean()), abs=1.5)


@pytest.mark.parametrize(("classes", "named"), [(40, True), (41, False)])
def test_classes_are_named_below_a_figure_where_there_is_room(classes: int, named: bool) -> None:
    names = [f"class {number}" for number in range(classes)]
    accuracies = pd.DataFrame({"prism": range(classes)}, index=names)
    measured = pd.DataFrame({"method": "prism", "class": names, "cosine": 0.5})
    for figure in (class_figure(accuracies, {}), diversity_figure(measured, {})):
        assert (figure.layout.xaxis.showticklabels is not False) == named
        assert list(figure.data[0].x) == names
        assert f"{classes} classes" in figure.layout.xaxis.title.text or named


def test_the_matrix_holds_each_method_by_each_student() -> None:
    frame = pd.concat([ACCURACIES, ACCURACIES.assign(student="b", mean=[80.0, 60.0])])
    figure = matrix_figure(frame, {"prism": "PRISM"})
    (squares,) = figure.data
    assert list(squares.x) == ["a", "b"]
    assert list(squares.y) == ["PRISM", "sre2l"]
    assert squares.z.tolist() == [[90.0, 80.0], [70.0, 60.0]]


CURVES = pd.DataFrame(
    [
        (method, "a", seed, epoch, 0.1 * epoch + 0.01 * seed)
        for method in ("prism", "sre2l")
        for seed in (0, 1)
        for epoch in (1, 2)
    ],
    columns=["method", "student", "seed", "epoch", "top1"],
)


def test_the_bands_of_learning_curves_have_no_marks() -> None:
    bands = [line for line in learning_figure(CURVES, {}).data if line.fill == "toself"]
    assert [band.mode for band in bands] == ["lines", "lines"]


TRADE = pd.DataFrame(
    {"top-1 %": [80.0, 70.0], "intra-class cosine": [0.5, float("nan")], "recognised %": 90.0},
    index=pd.Index(["prism", "sre2l"], name="method"),
)


def test_accuracy_against_diversity_shows_what_has_a_cosine() -> None:
    (point,) = tradeoff_figure(TRADE, {"prism": "PRISM"}).data
    assert list(point.text) == ["PRISM"]
    assert list(point.x) == [0.5]


def test_without_a_cosine_a_sentence_stands_for_the_axes() -> None:
    figure = tradeoff_figure(TRADE.loc[["sre2l"]], {})
    assert not figure.data
    assert "one image per class" in figure.layout.title.text
    assert figure.layout.xaxis.visible is False


def test_no_figure_can_be_uploaded(run: Run) -> None:
    figure = accuracy_figure(ACCURACIES, {})
    removed = figure.to_plotly_json()["layout"]["template"]["layout"]["modebar"]["remove"]
    assert "sendChartToCloud" in removed
    page = run.file(save_figure(run, "accuracy", figure, ACCURACIES)).read_text()
    assert '"showSendToCloud": false' in page


def test_figures_lie_on_the_paper_of_their_page() -> None:
    layout = accuracy_figure(ACCURACIES, {}).layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_a_pivoted_table_has_no_phantom_column() -> None:
    wide = ACCURACIES.pivot_table("mean", "method", "student")
    html = table_html(wide)
    assert html.count("<th>") == 2
    assert ">student<" not in html
    assert wide.columns.name == "student"


def test_tables_answer_yes_and_no() -> None:
    assert table_html(pd.DataFrame({"chosen": [True, False]})).count("True") == 0
    assert ">yes<" in table_html(pd.DataFrame({"chosen": [True, False]}))


def test_a_table_keeps_the_names_of_its_rows_and_no_count_of_them() -> None:
    named = pd.DataFrame({"cells": [3, 4]}, index=["search", "scenarios"])
    assert "search" in table_html(named)
    counted = pd.DataFrame({"cells": [30, 40, 50]}).iloc[1:]
    assert table_html(counted).count("<td>") == 2
