"""What students take classes for: counted, tabled and drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from prism_nb.viz import tables
from prism_nb.viz.figures.run import confusion_figure, gain_figure, learning_figure, tradeoff_figure


def guesses_of(shares: list[list[float]], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(shares, index=names, columns=names).rename_axis("class")


def test_mistakes_are_ranked_and_right_guesses_are_none() -> None:
    table = guesses_of([[90, 10, 0], [5, 70, 25], [0, 0, 100]], ["ape", "bee", "cat"])
    found = tables.top_confusions(table, most=5).reset_index().to_numpy().tolist()
    assert found == [["bee", "cat", 25.0], ["ape", "bee", 10.0], ["bee", "ape", 5.0]]


def test_class_without_images_makes_no_mistakes() -> None:
    table = guesses_of([[80, 20], [np.nan, np.nan]], ["ape", "bee"])
    assert tables.top_confusions(table)["taken for"].tolist() == ["bee"]
    assert len(confusion_figure(table, title="x").data[0].z) == 2


def test_of_many_classes_those_with_most_mistakes_are_drawn() -> None:
    right = np.linspace(100, 1, 100)
    square = np.diag(right)
    square[:, 0] += 100 - right
    square[0, 0] = 100
    names = ["crane"] * 2 + [f"c{n}" for n in range(98)]  # a name that two classes share
    figure = confusion_figure(pd.DataFrame(square, index=names, columns=names), title="x")
    assert [name.split()[0] for name in figure.data[0].y] == [str(n) for n in range(60, 100)]
    assert "the 40 of 100 classes with most mistakes" in figure.layout.title.text


def test_nothing_recorded_is_said() -> None:
    figure = confusion_figure(pd.DataFrame(), title="resnet")
    assert figure.layout.title.text == "resnet: not recorded"
    assert tables.top_confusions(pd.DataFrame()).empty


def test_gains_are_differences_to_the_base_in_ascending_order() -> None:
    classes = pd.DataFrame(
        {"prism": [50.0, 60.0, 70.0], "sre2l": [55.0, 40.0, 70.0]}, index=["a", "b", "c"]
    )
    gains = tables.per_class_gain_table(classes, "sre2l")
    assert gains["prism"].to_dict() == {"a": -5.0, "c": 0.0, "b": 20.0}
    assert list(gains.index) == ["a", "c", "b"]
    assert list(gain_figure(gains, {}, "sre2l").data[0].y) == [-5.0, 0.0, 20.0]


@pytest.mark.parametrize(
    ("methods", "base"),
    [(["prism", "sre2l"], "sre2l"), (["prism", "random_real"], "random_real"), (["x"], "x")],
)
def test_usual_base(methods: list[str], base: str) -> None:
    assert tables.default_baseline(methods) == base


def test_seeds_are_a_band_around_their_mean() -> None:
    curves = pd.DataFrame(
        {
            "method": "prism",
            "student": "s",
            "epoch": [1, 1, 2, 2],
            "seed": [0, 1, 0, 1],
            "top1": [0.2, 0.4, 0.5, 0.5],
        }
    )
    band, line = learning_figure(curves, {}).data
    assert list(line.y) == pytest.approx([30.0, 50.0])
    half = 100 * np.std([0.2, 0.4], ddof=1)
    assert list(band.y) == pytest.approx([30 + half, 50.0, 50.0, 30 - half])


def test_trade_has_a_point_per_method_in_its_colour() -> None:
    trade = pd.DataFrame(
        {"top-1 %": [50.0], "intra-class cosine": [0.4], "recognised %": [30.0]}, index=["prism"]
    )
    (point,) = tradeoff_figure(trade, {"prism": "PRISM"}).data
    assert (point.x[0], point.y[0], point.text[0]) == (0.4, 50.0, "PRISM")
    assert point.marker.color == "#4477AA"
