"""Figures of a run draw the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest

from prism_nb.viz.figures import run as figures
from prism_nb.viz.style import METHOD_COLORS, Legend, color_at

LEGEND = Legend({"real": "Real images", "prism": "PRISM", "sre2l": "SRe2L"})
ACCURACIES = pd.DataFrame(
    {"method": ["prism", "sre2l"], "student": "a", "mean": [90.0, 70.0], "std": [1.5, np.nan]}
)
CURVES = pd.DataFrame(
    {"method": "prism", "student": "a", "epoch": [1, 1, 2, 2], "top1": [0.2, 0.4, 0.5, 0.5]}
)


def test_bars_carry_means_spreads_and_colours() -> None:
    bars = figures.accuracy_figure(ACCURACIES, LEGEND).data
    assert [bar.name for bar in bars] == ["PRISM", "SRe2L"]
    assert [bar.y[0] for bar in bars] == [90.0, 70.0]
    assert bars[0].error_y.array[0] == 1.5
    assert bars[0].marker.color == METHOD_COLORS["prism"]


def test_losses_are_averaged_over_units() -> None:
    rows = [
        ("prism", unit, step, term, float(step * factor))
        for term in ("bn/x", "logit/x")
        for unit, factor in (("u", 1), ("v", 3))
        for step in (1, 2)
    ]
    frame = pd.DataFrame(rows, columns=["method", "unit", "step", "term", "value"])
    curves = figures.loss_figure(frame, LEGEND).data
    assert [curve.name for curve in curves] == ["PRISM, bn/x", "PRISM, logit/x"]
    assert len({curve.line.dash for curve in curves}) == 2
    assert (list(curves[0].x), list(curves[0].y)) == ([1, 2], [2.0, 4.0])


def test_networks_have_other_colours_than_methods() -> None:
    columns = {"method": "prism", "of": "gradient", "term": "bn", "share %": 12.5}
    shares = pd.DataFrame({**columns, "network": list("abcdefgh")})
    figure = figures.share_figure(shares, LEGEND, list("abcdefgh"))
    colours = {bar.marker.color for bar in figure.data}
    assert len(colours) == 8
    assert not colours & set(METHOD_COLORS.values())


def test_shares_are_in_the_order_of_the_pool_and_of_the_methods() -> None:
    rows = [
        ("sre2l", "gradient", "bn", "b@wheel", 88.0),
        ("sre2l", "gradient", "logit", "b@wheel", 12.0),
        ("sre2l", "BN loss", "bn", "b@wheel", 100.0),
        ("prism", "gradient", "bn", "timm/a@/far/a.pth", 60.0),
        ("prism", "gradient", "bn", "b@wheel", 40.0),
    ]
    columns = ["method", "of", "term", "network", "share %"]
    pool = ["unused", "timm/a@/far/a.pth", "b@wheel"]
    figure = figures.share_figure(pd.DataFrame(rows, columns=columns), LEGEND, pool)
    gradient = [bar for bar in figure.data if bar.xaxis == "x"]
    assert [(bar.name, list(bar.x)) for bar in gradient] == [
        ("a", [60.0]),
        ("b", [88.0, 40.0]),
        ("b, logits", [12.0]),
    ]
    assert [bar.marker.color for bar in gradient] == [color_at(1), color_at(2), color_at(2)]
    assert [bar.marker.pattern.shape for bar in gradient] == ["", "", "/"]
    assert list(figure.layout.yaxis.categoryarray) == ["PRISM", "SRe2L"]  # from below


def test_learning_curves_are_means_with_the_seeds_spread() -> None:
    (line,) = figures.learning_figure(CURVES, LEGEND).data
    assert list(line.y) == pytest.approx([30.0, 50.0])
    assert list(line.error_y.array) == pytest.approx([100 * np.std([0.2, 0.4], ddof=1), 0.0])


def test_of_many_classes_those_with_most_mistakes_are_drawn() -> None:
    right = np.linspace(100, 1, 100)
    shares = np.diag(right)
    shares[:, 0] += 100 - right
    shares[0, 0] = 100
    names = [f"c{n}" for n in range(100)]
    frame = pd.DataFrame(shares, index=names, columns=names)
    figure = figures.confusion_figure({"PRISM": frame}, title="x")
    assert list(figure.data[0].y) == names[60:]
    assert "the 40 of 100 classes with most mistakes" in figure.layout.title.text
    assert figure.data[0].text is None
    few = figures.confusion_figure(
        {"PRISM": frame.iloc[:3, :3], "SRe2L": frame.iloc[:3, :3]}, title="x"
    )
    assert few.data[0].text[1].tolist() == ["1", "99", ""]
    assert [note.text for note in few.layout.annotations] == ["PRISM", "SRe2L"]


def test_the_tradeoff_has_a_point_per_method_with_a_cosine() -> None:
    table = pd.DataFrame(
        {"top-1 %": [80.0, 70.0], "intra-class cosine": [0.5, np.nan], "recognised %": 90.0},
        index=pd.Index(["prism", "sre2l"], name="method"),
    )
    (point,) = figures.tradeoff_figure(table, LEGEND).data
    assert (point.x[0], point.y[0], point.name) == (0.5, 80.0, "PRISM")


def test_published_results_are_grey() -> None:
    rows = [
        ("prism", "PRISM", "a", 10, 40.0, 0.5, "this run"),
        ("SRe2L", "SRe2L (published)", "a", 10, 21.3, 0.6, "a table"),
        ("CDA", "CDA (published)", "a", 10, 33.6, np.nan, "a table"),
    ]
    columns = ["method", "title", "student", "ipc", "mean", "std", "source"]
    table = pd.DataFrame(rows, columns=columns).assign(**{"label teachers": [4, 1, np.nan]})
    own, published = figures.published_figure(table, LEGEND).data
    assert "label teachers" in published.hovertemplate
    assert (list(own.y), own.marker.color) == (["PRISM"], METHOD_COLORS["prism"])
    assert published.marker.color == figures.PUBLISHED_COLOR
    assert list(published.y) == ["SRe2L (published)", "CDA (published)"]
    assert np.isnan(published.error_x.array[1])


def test_a_thousand_classes_are_marks_without_names() -> None:
    names = pd.Index([f"c{n}" for n in range(1000)], name="class")
    table = pd.DataFrame({"prism": 50.0, "sre2l": 40.0}, index=names)
    figure = figures.class_accuracy_figure(table, LEGEND)
    assert {trace.mode for trace in figure.data} == {"markers"}
    assert len({trace.marker.symbol for trace in figure.data}) == 2
    assert figure.layout.xaxis.showticklabels is False
