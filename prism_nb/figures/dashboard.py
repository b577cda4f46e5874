"""What the diversity dashboard shows: one figure of a run, its numbers, and what is to be said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from prism_nb import diversity_tables
from prism_nb.absent_units import absent
from prism_nb.class_names import class_label
from prism_nb.data import open_dataset
from prism_nb.diversity.catalogue import MEASURES
from prism_nb.errors import PrismError, UsageError
from prism_nb.figures.cloud import Cloud, cloud, project
from prism_nb.figures.maps import map_figure, map_table
from prism_nb.figures.similarity import similarity_figure, similarity_table
from prism_nb.figures.spread import (
    bars_figure,
    curve_figure,
    curve_table,
    distance_figure,
    distance_table,
)
from prism_nb.pipeline import class_count, stage_units
from prism_nb.plans.diversity import diversity_unit
from prism_nb.plans.synthesis import method_units
from prism_nb.run import Run
from prism_nb.tables import method_title

BARS = ("vendi", "coverage", "radius")
MOST_IN_MATRIX = 100  # images of each method


@dataclass(frozen=True)
class DashboardView:
    """The state of a dashboard, without any widget.

    Attributes:
        what: A name of `FIGURES`.
        network: Whose features are used.
        methods: The sets of images; `plans.diversity.REFERENCE` for real ones.
        classes: The classes of maps and matrices.
        measure: Of the curve, a name of `catalogue.MEASURES`.
        kind: Of the map, a name of `cloud.MAPS`.
        near: Of the distances: `training`, or `within` the class.
    """

    what: str
    network: str
    methods: tuple[str, ...]
    classes: tuple[int, ...]
    measure: str = "cosine"
    kind: str = "pca"
    near: str = "training"


@dataclass(frozen=True)
class Shown:
    """What a view comes to.

    Attributes:
        figure: The figure; None where there is none, and `words` say why.
        table: Its numbers.
        words: What is to be said; empty where all is well.
        images: uint8 [n, 3, S, S] to which the figure's `customdata` point; None without.
        names: What each image is.
    """

    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    words: str = ""
    images: Tensor | None = None
    names: tuple[str, ...] = ()


def shown(run: Run, view: DashboardView) -> Shown:
    """Return what a view comes to; whatever is amiss is said in its words."""
    if not view.methods:
        return Shown(words="Choose at least one method.")
    try:
        return FIGURES[view.what].draw(run, view)
    except PrismError as error:
        return Shown(words=f"Not shown: {error}")


def _curve(run: Run, view: DashboardView) -> Shown:
    found, titles, words = _measured(run, view)
    per_class = diversity_tables.diversity_per_class(found)
    mine = _of(per_class[per_class["features"] == view.network], view)
    if not mine[view.measure].notna().any():
        return Shown(words=f"Not shown: {_why(found, MEASURES[view.measure].title)}")
    figure = curve_figure(mine, titles, MEASURES[view.measure])
    return Shown(figure, curve_table(mine, titles, view.measure), words)


def _distances(run: Run, view: DashboardView) -> Shown:
    found, titles, words = _measured(run, view)
    if view.near == "training":
        frame = diversity_tables.nearest_table(found, view.network)
        what = "the nearest training image of the class, of every image"
    else:
        frame = diversity_tables.diversity_per_class(found)
        frame = frame[frame["features"] == view.network].rename(
            columns={"nearest_within": "distance"}
        )
        what = "the nearest other image of the class, mean of every class"
    mine = _of(frame, view).dropna(subset=["distance"])
    if not len(mine):
        return Shown(words=f"Not shown: {_why(found, 'nearest')}")
    mine = mine.sort_values("method", key=lambda names: names.map(view.methods.index))
    return Shown(distance_figure(mine, titles, what), distance_table(mine, titles), words)


def _bars(run: Run, view: DashboardView) -> Shown:
    found, titles, words = _measured(run, view)
    space = diversity_tables.space_table(found, view.network)
    columns = [MEASURES[name].heading for name in BARS if name != "radius"]
    columns.append(diversity_tables.RATIO)
    mine = space.loc[[titles[m] for m in view.methods if titles[m] in space.index], columns]
    methods = {titles[method]: method for method in view.methods}
    return Shown(bars_figure(mine, columns, methods), mine, words)


def _matrix(run: Run, view: DashboardView) -> Shown:
    if len(view.classes) != 1:
        return Shown(words="Not shown: a similarity matrix is of one class; name one")
    most = MOST_IN_MATRIX * len(view.methods)
    points = cloud(run, view.network, view.methods, view.classes, most=most, behind=0)
    label = class_label(open_dataset(run.settings).classes[view.classes[0]])
    titles = _titles(run, view)
    title = f"Cosine of all pairs, class {label}, {points.words}, features of {view.network}"
    figure, table = similarity_figure(points, titles, title), similarity_table(points, titles)
    return Shown(
        figure, table, _absent(run, points, view, titles), points.pixels, _names(run, points)
    )


def _map(run: Run, view: DashboardView) -> Shown:
    points, titles = cloud(run, view.network, view.methods, view.classes), _titles(run, view)
    places = project(points.features, view.kind)
    classes = open_dataset(run.settings).classes
    figure = map_figure(points, places, view.kind, titles, classes, view.network)
    words = _absent(run, points, view, titles)
    return Shown(
        figure, map_table(points, places, titles), words, points.pixels, _names(run, points)
    )


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        title: What it is called.
        draw: Draws it.
        asks: Which controls it needs beside the methods and the network.
    """

    title: str
    draw: Callable[[Run, DashboardView], Shown]
    asks: tuple[str, ...] = ()


FIGURES = {
    "curve": Kind("Curve over classes", _curve, ("measure",)),
    "matrix": Kind("Similarity matrix", _matrix, ("classes",)),
    "map": Kind("Map", _map, ("classes", "kind")),
    "distances": Kind("Nearest neighbours", _distances, ("near",)),
    "bars": Kind("Vendi, coverage, radius", _bars),
}
NEAR = {"training": "a training image", "within": "an image of its class"}


def _measured(run: Run, view: DashboardView) -> tuple[Run, dict[str, str], str]:
    """Return the run as far as it is measured, titles, and which chosen methods are not."""
    found, titles = diversity_tables.measured(run), _titles(run, view)
    measured, classes = _sets(found), class_count(run)
    units = [diversity_unit(run, m, classes) for m in view.methods if m not in measured]
    if len(units) == len(view.methods):
        none = "none of these methods is measured yet: run notebook 03"
        raise UsageError(absent(run, units, none))
    unmade = "not measured yet: run notebook 03"
    return found, titles, _left_out({titles[u.name]: absent(run, [u], unmade) for u in units})


def _left_out(reasons: dict[str, str]) -> str:
    """Say which sets of images are not shown, those of one reason together."""
    parts = []
    for why in dict.fromkeys(reasons.values()):
        names = [name for name, reason in reasons.items() if reason == why]
        parts.append(f"Left out: {', '.join(names)} ({why})")
    return "; ".join(parts)


def _sets(run: Run) -> set[str]:
    return {unit.name for unit in stage_units(run, "diversity")}


def _of(frame: pd.DataFrame, view: DashboardView) -> pd.DataFrame:
    return frame[frame["method"].isin(view.methods)]


def _titles(run: Run, view: DashboardView) -> dict[str, str]:
    return {method: method_title(run, method) for method in view.methods}


def _absent(run: Run, points: Cloud, view: DashboardView, titles: dict[str, str]) -> str:
    there, classes = set(points.table["method"]), class_count(run)
    unmade = "no images yet: run notebook 02"
    return _left_out(
        {
            titles[method]: absent(run, method_units(run, method, classes), unmade)
            for method in view.methods
            if method not in there
        }
    )


def _names(run: Run, points: Cloud) -> tuple[str, ...]:
    classes = open_dataset(run.settings).classes
    return tuple(
        f"{method_title(run, method)}, {class_label(classes[c])}, slot {slot}"
        for method, c, slot in points.table.itertuples(index=False)
    )


def _why(run: Run, title: str) -> str:
    """Return why a measure is undefined, as the records say."""
    table = diversity_tables.undefined_table(run)
    reasons = table[table["measures"].str.contains(title, regex=False)]["undefined because"]
    return reasons.iloc[0] if len(reasons) else "no value is defined"
