"""Colours are distinguishable wherever methods are shown together, and fixed for the kit's own."""

from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from prism_nb.core.recipe import RECIPES
from prism_nb.viz.style import (
    METHOD_COLORS,
    TEXT_COLOR,
    Legend,
    apply_style,
    color_at,
    error_bars,
    ink_on,
    short_names,
    with_chance,
)

MANY = Legend({f"mine_{i}": f"Mine {i}" for i in range(50)})
OWN = {MANY.color(name) for name in MANY.titles}
PAGES = ("#fdfdfb", "#16191d", "#ffffff", "#111111")
XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
# Machado et al. 2009, on linear RGB: all cones, no green ones, no red ones.
EYES = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
    "protanopia": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]
    ),
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(colour: str, eyes: str) -> np.ndarray:
    xyz = XYZ @ np.clip(EYES[eyes] @ linear(colour), 0, 1) / [0.9505, 1, 1.0888]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(colour: str, other: str) -> float:
    low, high = sorted(float(XYZ[1] @ linear(c)) for c in (colour, other))
    return (high + 0.05) / (low + 0.05)


def test_recipes_of_the_kit_have_colours_of_their_own() -> None:
    names = [name for name in RECIPES.names() if name != "imported"]
    assert set(names) <= set(METHOD_COLORS)
    assert len(set(METHOD_COLORS.values())) == len(METHOD_COLORS)
    assert not OWN & set(METHOD_COLORS.values())


def test_colours_do_not_depend_on_the_order_of_methods() -> None:
    turned = Legend(dict(reversed(MANY.titles.items())))
    assert all(turned.color(name) == MANY.color(name) for name in MANY.titles)


@pytest.mark.parametrize(
    ("eyes", "least"), [("normal", 12), ("deuteranopia", 7), ("protanopia", 7)]
)
def test_colours_are_distinguishable(eyes: str, least: float) -> None:
    networks = [color_at(index) for index in range(8)]
    for one, two in combinations([*METHOD_COLORS.values(), *OWN, *networks], 2):
        assert np.linalg.norm(lab(one, eyes) - lab(two, eyes)) >= least, (one, two)


def test_colours_are_visible_on_light_and_dark_pages() -> None:
    for page in PAGES:
        assert all(contrast(colour, page) >= 2 for colour in {*METHOD_COLORS.values(), *OWN})
        assert contrast(TEXT_COLOR, page) >= 4


def test_numbers_in_bars_are_readable() -> None:
    colours = [*METHOD_COLORS.values(), *OWN, *map(color_at, range(8))]
    assert min(contrast(ink_on(colour), colour) for colour in colours) >= 4.5
    bars = go.Figure([go.Bar(y=[1], text=["1"], marker={"color": "#EE6677"})])
    apply_style(bars, title="", x="", y="")
    assert bars.data[0].insidetextfont.color == "#000000"


def test_figures_are_transparent_and_cannot_be_uploaded() -> None:
    layout = apply_style(go.Figure(), title="t", x="x", y="y").layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert "sendChartToCloud" in layout.modebar.remove


@pytest.mark.parametrize(("axis", "held"), [("x", "x0"), ("y", "y0")])
def test_chance_is_a_labelled_line_across_the_accuracies(axis: str, held: str) -> None:
    figure = with_chance(go.Figure(go.Bar(x=[1], y=[50])), 10.0, 10.0, axis=axis)
    (line,), (label,) = figure.layout.shapes, figure.layout.annotations
    assert (line[held], line[held[0] + "1"], label.text) == (10, 10, "chance 10 %")


def test_error_bars_stay_within_what_can_be() -> None:
    bars = error_bars(pd.Series([95.0, 5.0, 50.0]), pd.Series([9.0, 9.0, 9.0]))
    assert bars.to_numpy().tolist() == [[5, 9], [9, 5], [9, 9]]


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    names = [
        *("timm/a@/far/a.pth", "b@V1", "b@V2", "resnet50.a1_in1k", "c", "c@wheel"),
        *("d@/one/d.pth", "d@/two/d.pth", "timm/e", "torchvision/e"),
    ]
    short = short_names(names)
    assert list(short) == names
    assert list(short.values()) == ["a", *names[1:]]
    assert short_names(["b@V1", "d@/one/d.pth", "d@/two/e.pth"]) == {
        "b@V1": "b",
        "d@/one/d.pth": "d@d.pth",
        "d@/two/e.pth": "d@e.pth",
    }
