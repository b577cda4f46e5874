"""Colours: distinct wherever methods are shown together, and the same wherever one is shown."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from prism_nb.core.config import load_settings, preset_names
from prism_nb.core.recipe import recipe_names
from prism_nb.core.settings import REFERENCE
from prism_nb.execution.study import load_study, study_names
from prism_nb.viz import style
from prism_nb.viz.figures.run import accuracy_figure, loss_figure, share_figure
from prism_nb.viz.monitor import curves_svg
from prism_nb.viz.style import TEXT_COLOR, colour_at, colour_of, dash_of, method_styles

METHODS = (*style._OWNED.values(), *style._SPARE)
PAPERS = ("#fdfdfb", "#16191d", "#ffffff", "#111111")
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


def lists_shown_together() -> dict[str, list[str]]:
    """The methods of every preset and study of the kit, with the real images."""
    shown = {f"preset {name}": load_settings(name).methods for name in preset_names()}
    for name in study_names():
        shown[f"study {name}"] = tuple(load_study(name).settings["methods"])
    return {name: [REFERENCE, *methods] for name, methods in shown.items()}


SHOWN = lists_shown_together()


@pytest.mark.parametrize("name", SHOWN)
def test_methods_of_every_preset_and_study_have_colours_of_their_own(name: str) -> None:
    colours = [look.colour for look in method_styles(SHOWN[name]).values()]
    assert len(set(colours)) == len(SHOWN[name])


def test_recipes_of_the_kit_keep_their_colours_beside_any_others() -> None:
    owned = [name for name in recipe_names() if name != "imported"]
    assert len({colour_of(name) for name in owned}) == len(owned)
    together = method_styles([*owned, *(f"mine_{i}" for i in range(40))])
    assert all(together[name].colour == colour_of(name) for name in owned)


def test_the_order_of_methods_is_of_no_account() -> None:
    names = [f"mine_{i}" for i in range(9)]
    assert method_styles(names) == method_styles(names[::-1])


def test_more_methods_than_colours_differ_by_a_second_cue() -> None:
    looks = method_styles(f"mine_{i}" for i in range(50))
    assert len(set(looks.values())) == 50
    names = list(looks)
    frame = pd.DataFrame({"method": names, "student": "s", "mean": 1.0, "std": 0.1})
    bars = accuracy_figure(frame, {}).data
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in bars}) == 50


@pytest.mark.parametrize(
    ("eyes", "least"), [("normal", 12), ("deuteranopia", 7), ("protanopia", 7)]
)
def test_colours_are_told_apart(eyes: str, least: float) -> None:
    others = [colour_at(place) for place in range(8)]
    for one, two in combinations([*METHODS, *others], 2):
        assert np.linalg.norm(lab(one, eyes) - lab(two, eyes)) >= least, (one, two)


def test_colours_stand_out_from_light_and_dark_paper() -> None:
    for paper in PAPERS:
        assert all(contrast(colour, paper) >= 2 for colour in METHODS)
        assert contrast(TEXT_COLOR, paper) >= 4


def test_no_two_lines_have_the_same_dashes() -> None:
    assert len({dash_of(place) for place in range(30)}) == 30


@pytest.mark.parametrize("count", [5, 24])
def test_no_two_loss_terms_are_drawn_alike(count: int) -> None:
    terms = [f"bn/net{i}" for i in range(count)]
    frame = pd.DataFrame({"method": "prism", "unit": "u", "step": 1, "term": terms, "value": 1.0})
    assert len({curve.line.dash for curve in loss_figure(frame, {}).data}) == count
    svg = curves_svg({term: [(0, 1.0), (1, 2.0)] for term in terms}, steps=1)
    pens = {line.split("stroke-dasharray=")[1].split('"')[1] for line in svg.split("<polyline")[1:]}
    assert len(pens) == count


def test_networks_have_other_colours_than_methods() -> None:
    shares = pd.DataFrame({"method": "prism", "network": list("abcdefgh"), "share %": 12.5})
    bars = share_figure(shares, {}).data
    assert len({bar.marker.color for bar in bars}) == 8
    assert not {bar.marker.color for bar in bars} & set(METHODS)
