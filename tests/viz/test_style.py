"""Colours are distinguishable wherever methods are shown together, and fixed for the kit's own."""

from itertools import combinations

import numpy as np
import plotly.graph_objects as go
import pytest

from prism_nb.core.recipe import RECIPES
from prism_nb.viz.style import (
    METHOD_COLORS,
    TEXT_COLOR,
    Legend,
    apply_style,
    color_at,
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


def test_figures_are_transparent_and_cannot_be_uploaded() -> None:
    layout = apply_style(go.Figure(), title="t", x="x", y="y").layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert "sendChartToCloud" in layout.modebar.remove
