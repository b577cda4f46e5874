"""What the diversity dashboard shows: one figure of a run, its numbers, and what is to be said."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots
from torch import Tensor

from prism_nb.core.device import num_threads
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit, method_units
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.distilled import load_subset
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import FEATURE_CACHE, features_of
from prism_nb.diversity.metrics import METRICS, Metric, normalize_rows
from prism_nb.execution.pipeline import class_count, stage_units
from prism_nb.models.pool import load_teacher
from prism_nb.viz import tables
from prism_nb.viz.html import CONFIG, sprites
from prism_nb.viz.style import (
    PAGE_CSS,
    PLOTLY_CSS,
    apply_style,
    dash_of,
    method_styles,
    pattern_of,
    symbol_of,
)
from prism_nb.viz.tables import absent, class_label, image_table, method_title

BARS = ("vendi", "coverage", "radius")
MAX_IN_MATRIX = 100  # images of each method


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
class FigureResult:
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


def render_view(run: Run, view: DashboardView) -> FigureResult:
    """Return what a view comes to; whatever is amiss is said in its words."""
    if not view.methods:
        return FigureResult(words="Choose at least one method.")
    try:
        return FIGURES[view.what].draw(run, view)
    except PrismError as error:
        return FigureResult(words=f"Not shown: {error}")


def _curve(run: Run, view: DashboardView) -> FigureResult:
    found, titles, words = _measured(run, view)
    per_class = tables.diversity_per_class(found)
    mine = _of(per_class[per_class["features"] == view.network], view)
    if not mine[view.measure].notna().any():
        return FigureResult(words=f"Not shown: {_why(found, METRICS[view.measure].title)}")
    figure = curve_figure(mine, titles, METRICS[view.measure])
    return FigureResult(figure, curve_table(mine, titles, view.measure), words)


def _distances(run: Run, view: DashboardView) -> FigureResult:
    found, titles, words = _measured(run, view)
    if view.near == "training":
        frame = tables.nearest_table(found, view.network)
        what = "the nearest training image of the class, of every image"
    else:
        frame = tables.diversity_per_class(found)
        frame = frame[frame["features"] == view.network].rename(
            columns={"nearest_in_class": "distance"}
        )
        what = "the nearest other image of the class, mean of every class"
    mine = _of(frame, view).dropna(subset=["distance"])
    if not len(mine):
        return FigureResult(words=f"Not shown: {_why(found, 'nearest')}")
    mine = mine.sort_values("method", key=lambda names: names.map(view.methods.index))
    return FigureResult(distance_figure(mine, titles, what), distance_table(mine, titles), words)


def _bars(run: Run, view: DashboardView) -> FigureResult:
    found, titles, words = _measured(run, view)
    space = tables.diversity_space_table(found, view.network)
    columns = [METRICS[name].heading for name in BARS if name != "radius"]
    columns.append(tables.RATIO)
    mine = space.loc[[titles[m] for m in view.methods if titles[m] in space.index], columns]
    methods = {titles[method]: method for method in view.methods}
    return FigureResult(bars_figure(mine, columns, methods), mine, words)


def _matrix(run: Run, view: DashboardView) -> FigureResult:
    if len(view.classes) != 1:
        return FigureResult(words="Not shown: a similarity matrix is of one class; name one")
    most = MAX_IN_MATRIX * len(view.methods)
    points = load_points(run, view.network, view.methods, view.classes, most=most, behind=0)
    label = class_label(open_dataset(run.settings).classes[view.classes[0]])
    titles = _titles(run, view)
    title = f"Cosine of all pairs, class {label}, {points.words}, features of {view.network}"
    figure, table = similarity_figure(points, titles, title), similarity_table(points, titles)
    return FigureResult(
        figure, table, _absent(run, points, view, titles), points.pixels, _names(run, points)
    )


def _map(run: Run, view: DashboardView) -> FigureResult:
    points, titles = load_points(run, view.network, view.methods, view.classes), _titles(run, view)
    places = project(points.features, view.kind)
    classes = open_dataset(run.settings).classes
    figure = map_figure(points, places, view.kind, titles, classes, view.network)
    words = _absent(run, points, view, titles)
    return FigureResult(
        figure, map_table(points, places, titles), words, points.pixels, _names(run, points)
    )


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Attributes:
        title: What it is called.
        draw: Draws it.
        asks: Which controls it needs beside the methods and the network.
    """

    title: str
    draw: Callable[[Run, DashboardView], FigureResult]
    asks: tuple[str, ...] = ()


FIGURES = {
    "curve": FigureKind("Curve over classes", _curve, ("measure",)),
    "matrix": FigureKind("Similarity matrix", _matrix, ("classes",)),
    "map": FigureKind("Map", _map, ("classes", "kind")),
    "distances": FigureKind("Nearest neighbours", _distances, ("near",)),
    "bars": FigureKind("Vendi, coverage, radius", _bars),
}
NEAR = {"training": "a training image", "within": "an image of its class"}


def _measured(run: Run, view: DashboardView) -> tuple[Run, dict[str, str], str]:
    """Return the run as far as it is measured, titles, and which chosen methods are not."""
    found, titles = tables.measured_networks(run), _titles(run, view)
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


def _absent(run: Run, points: FeaturePoints, view: DashboardView, titles: dict[str, str]) -> str:
    there, classes = set(points.table["method"]), class_count(run)
    unmade = "no images yet: run notebook 02"
    return _left_out(
        {
            titles[method]: absent(run, method_units(run, method, classes), unmade)
            for method in view.methods
            if method not in there
        }
    )


def _names(run: Run, points: FeaturePoints) -> tuple[str, ...]:
    classes = open_dataset(run.settings).classes
    return tuple(
        f"{method_title(run, method)}, {class_label(classes[c])}, slot {image_index}"
        for method, c, image_index in points.table.itertuples(index=False)
    )


def _why(run: Run, title: str) -> str:
    """Return why a measure is undefined, as the records say."""
    table = tables.undefined_table(run)
    reasons = table[table["measures"].str.contains(title, regex=False)]["undefined because"]
    return reasons.iloc[0] if len(reasons) else "no value is defined"


MAX_POINTS = 3000
REAL_BEHIND = 50  # real images per class behind the others on a map
UMAP_NEIGHBOURS = 15
_SEED = 0
MAPS = {"pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True)
class FeaturePoints:
    """Images and their features.

    Attributes:
        table: `method`, `class` and `slot` of each point.
        pixels: uint8 [n, 3, S, S].
        features: Of length 1, float64 [n, d].
        there: Points that there would be without sub-sampling.
    """

    table: pd.DataFrame
    pixels: Tensor
    features: Tensor
    there: int

    @property
    def words(self) -> str:
        """How many points there are, and of how many."""
        count = len(self.table)
        return f"{count} of {self.there} images" if count < self.there else f"{count} images"


def load_points(
    run: Run,
    network: str,
    methods: Sequence[str],
    classes: Sequence[int],
    *,
    most: int = MAX_POINTS,
    behind: int = REAL_BEHIND,
) -> FeaturePoints:
    """Look at images of methods, the real ones first, with one network.

    Where they are too many, every set gives equally many, drawn without repetition: methods with
    equally many images give the same classes and slots. The draw is the same every time.

    Args:
        run: The run.
        network: Whose features are used.
        methods: The sets; `plans.diversity.REFERENCE` for real images.
        classes: The classes.
        most: Points at most.
        behind: Real images per class, where they shall be more than the methods have; those of
            the reference come first.

    Raises:
        PrismError: The network is not trained, or an image cannot be read.
        UsageError: There is no image at all.
    """
    every = {name: _members(run, name, classes, behind) for name in methods}
    every = {name: members for name, members in every.items() if members}
    if not every:
        units = [u for name in methods for u in method_units(run, name, class_count(run))]
        raise UsageError(absent(run, units, "no images of these methods yet: run notebook 02"))
    chosen = {n: subsample(members, most // len(every)) for n, members in every.items()}
    if sum(map(len, every.values())) <= most:
        chosen = every
    dataset = open_dataset(run.settings)
    pixels = torch.cat([load_subset(run, n, dataset, members) for n, members in chosen.items()])
    rows = [(name, *member) for name, members in chosen.items() for member in members]
    table = pd.DataFrame(rows, columns=["method", "class", "image_index"])
    features = FEATURE_CACHE.get(features_of, load_teacher(run, network), pixels, dataset)
    return FeaturePoints(table, pixels, normalize_rows(features), sum(map(len, every.values())))


def subsample(members: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most so many, in their order; which, their number alone decides."""
    if len(members) <= most:
        return list(members)
    places = np.random.default_rng(_SEED).choice(len(members), most, replace=False)
    return [members[place] for place in sorted(places)]


def project(features: Tensor, kind: str) -> np.ndarray:
    """Bring features into the plane.

    Args:
        features: float64 [n, d], of length 1.
        kind: `pca` (the two directions of largest variance) or `umap` (McInnes et al. 2018,
            cosine distance, 15 neighbours, a fixed seed).

    Returns:
        float64 [n, 2].

    Raises:
        UsageError: There are too few images, or their features are not finite.
    """
    values = features.numpy()
    if not np.isfinite(values).all():
        raise UsageError("features are not finite or all zero, so there is no map of them")
    least = {"pca": 2, "umap": 5}[kind]
    if len(values) < least:
        raise UsageError(
            f"{MAPS[kind]} needs {least} images at least, and these are {len(values)}; name more "
            "classes or methods"
        )
    return _pca(values) if kind == "pca" else _umap(values)


def _pca(values: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, svd_solver="full").fit_transform(values)


def _umap(values: np.ndarray) -> np.ndarray:
    neighbours = min(UMAP_NEIGHBOURS, len(values) - 1)
    few = len(values) <= 2 * UMAP_NEIGHBOURS  # too few for the spectral start
    with num_threads():  # UMAP's compiler sets those of OpenMP, which PyTorch uses too
        from umap import UMAP  # it takes seconds to load

        fit = UMAP(
            n_neighbors=neighbours,
            metric="cosine",
            init="random" if few else "spectral",
            random_state=_SEED,
            n_jobs=1,
        )
        return fit.fit_transform(values.astype(np.float32)).astype(np.float64)


def _members(run: Run, name: str, classes: Sequence[int], behind: int) -> list[tuple[int, int]]:
    if name == REFERENCE:
        dataset, most = open_dataset(run.settings), max(behind, run.settings.ipc)
        return [(c, image_index) for c in classes for image_index in range(_real(dataset, c, most))]
    table = image_table(run, name, classes)
    made = table[table["made"]]
    return list(zip(made["class"].to_list(), made["image_index"].to_list(), strict=True))


def _real(dataset: ImageDataset, c: int, most: int) -> int:
    return min(len(dataset.class_indices("train", c)), most)


def map_figure(
    points: FeaturePoints,
    places: np.ndarray,
    kind: str,
    titles: dict[str, str],
    classes: Sequence[ClassInfo],
    network: str,
) -> go.Figure:
    """Draw images as points; methods differ by colour and symbol.

    Args:
        points: The images.
        places: Where each lies, [n, 2].
        kind: A name of `cloud.MAPS`.
        titles: How each method is called.
        classes: The dataset's.
        network: Whose features they are.
    """
    figure, looks = go.Figure(), method_styles([*titles, *points.table["method"]])
    table = points.table.assign(x=places[:, 0], y=places[:, 1], place=range(len(places)))
    for number, (method, group) in enumerate(table.groupby("method", sort=False)):
        names = [f"{class_label(classes[c])}, slot {s}" for c, s in _pairs(group)]
        figure.add_scatter(
            x=group["x"],
            y=group["y"],
            mode="markers",
            name=titles.get(str(method), str(method)),
            marker=_marker(str(method), looks[str(method)].colour, number),
            customdata=[[place] for place in group["place"]],
            text=names,
            hovertemplate="%{text}<extra>%{fullData.name}</extra>",
        )
    unit = "no unit: only who is near whom counts" if kind == "umap" else "of unit features"
    return apply_style(
        figure,
        title=f"{MAPS[kind]} of {points.words}, features of {network}",
        x=f"{MAPS[kind]} axis 1 ({unit})",
        y=f"{MAPS[kind]} axis 2",
        height=520,
    )


def map_table(points: FeaturePoints, places: np.ndarray, titles: dict[str, str]) -> pd.DataFrame:
    """Return, per method, its images on a map, their centre, and their mean distance to it."""
    rows = {}
    for method, group in points.table.groupby("method", sort=False):
        mine = places[group.index]
        centre = mine.mean(0)
        spread = float(np.linalg.norm(mine - centre, axis=1).mean())
        title = titles.get(str(method), str(method))
        rows[title] = {"images": len(mine), "x": centre[0], "y": centre[1], "spread": spread}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _marker(method: str, colour: str, number: int) -> dict[str, object]:
    if method == REFERENCE:
        return {"color": colour, "size": 6, "opacity": 0.4, "symbol": "circle-open"}
    return {"color": colour, "size": 9, "opacity": 0.85, "symbol": symbol_of(number)}


def _pairs(group: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(group["class"], group["image_index"], strict=True))


_COLUMNS = 3
_SQUARE = 270  # pixels per matrix


def similarity_matrices(points: FeaturePoints) -> dict[str, np.ndarray]:
    """Return z_i . z_j of all pairs of each method's images, float64 [n, n] by method."""
    groups = points.table.groupby("method", sort=False)
    matrices = {}
    for method, group in groups:
        z = points.features[group.index.to_list()].numpy()
        matrices[str(method)] = z @ z.T
    return matrices


def similarity_figure(points: FeaturePoints, titles: dict[str, str], title: str) -> go.Figure:
    """Draw a matrix per method, all in one scale of colours.

    Args:
        points: Images of one class.
        titles: How each method is called.
        title: The figure's.
    """
    matrices = similarity_matrices(points)
    columns = min(_COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    heads = [titles.get(method, method) for method in matrices]
    figure = make_subplots(
        rows, columns, subplot_titles=heads, horizontal_spacing=0.08, vertical_spacing=0.34 / rows
    )
    for place, (method, matrix) in enumerate(matrices.items()):
        members = points.table.index[points.table["method"] == method].to_numpy()
        image_indices = points.table.loc[members, "image_index"].astype(str)
        row, column = divmod(place, columns)
        figure.add_trace(_heat(matrix, image_indices, members), row=row + 1, col=column + 1)
        name = {"text": "image_index"}
        figure.update_xaxes(title=name, row=row + 1, col=column + 1)
        if column == 0:  # beside the others it would stand on their neighbours
            figure.update_yaxes(title=name, row=row + 1, col=1)
    apply_style(figure, title=title, x="image_index", y="image_index", height=130 + rows * _SQUARE)
    low = min(0.0, *(float(np.nanmin(matrix)) for matrix in matrices.values()))
    bar = {"title": {"text": "cosine"}}
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": low, "cmax": 1, "colorbar": bar}
    )
    # Slots are names, which plotly would take for numbers and put halves between.
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure.update_xaxes(showgrid=False, type="category")


def similarity_table(points: FeaturePoints, titles: dict[str, str]) -> pd.DataFrame:
    """Return, per method, the images and the mean, least and largest cosine of two of them."""
    rows = {}
    for method, matrix in similarity_matrices(points).items():
        pairs = pd.Series(matrix[np.triu_indices(len(matrix), 1)], dtype=float)  # none: NaN
        values = {"mean": pairs.mean(), "least": pairs.min(), "largest": pairs.max()}
        rows[titles.get(method, method)] = {"images": len(matrix), **values}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _heat(matrix: np.ndarray, image_indices: pd.Series, members: np.ndarray) -> go.Heatmap:
    pairs = np.stack(np.meshgrid(members, members, indexing="ij"), axis=-1)
    return go.Heatmap(
        z=matrix,
        x=image_indices,
        y=image_indices,
        coloraxis="coloraxis",
        customdata=pairs.tolist(),
        hovertemplate="slots %{y} and %{x}: %{z:.3f}<extra></extra>",
    )


_BINS = 25
_QUANTILES = {
    "least": 0.0,
    "lower quarter": 0.25,
    "median": 0.5,
    "upper quarter": 0.75,
    "most": 1.0,
}
_BETTER = {"↓": " (lower is better)", "↑": " (higher is better)", "": ""}


def curve_figure(
    per_class: pd.DataFrame, titles: dict[str, str], measure: Metric = METRICS["cosine"]
) -> go.Figure:
    """Draw a measure of every class, sorted for each method by itself (the paper's curve).

    Args:
        per_class: The result of `diversity_tables.diversity_per_class`, for one feature network.
        titles: How each method is called.
        measure: Which of its columns; a share is drawn in percent.
    """
    figure, factor = go.Figure(), 100 if measure.percent else 1
    looks = method_styles([*titles, *per_class["method"]])
    for place, (method, group) in enumerate(per_class.groupby("method", sort=False)):
        curve = group.dropna(subset=[measure.name]).sort_values(measure.name, kind="stable")
        figure.add_scatter(
            x=list(range(1, len(curve) + 1)),
            y=factor * curve[measure.name],
            text=curve["class"],
            mode="lines+markers" if len(curve) <= 50 else "lines",
            name=titles.get(str(method), str(method)),
            line={"color": looks[str(method)].colour, "dash": dash_of(place)},
            hovertemplate="%{text}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    return apply_style(
        figure,
        title=f"{_capital(measure.title)}, classes in ascending order{_BETTER[measure.better]}",
        x="rank of the class, each method by itself (hover for its name)",
        y=measure.title + (" (%)" if measure.percent else ""),
    )


def curve_table(per_class: pd.DataFrame, titles: dict[str, str], measure: str) -> pd.DataFrame:
    """Return, per method, the number of classes and quantiles of a measure over them."""
    return _quantiles(per_class, measure, titles, counted="classes")


def distance_figure(distances: pd.DataFrame, titles: dict[str, str], what: str) -> go.Figure:
    """Draw how distances are distributed, a stepped line per method over common bins.

    Args:
        distances: `method` and `distance`, in [0, 2].
        titles: How each method is called.
        what: What they are distances to.
    """
    figure, looks = go.Figure(), method_styles([*titles, *distances["method"]])
    largest = float(distances["distance"].max()) if len(distances) else 0.0
    edges = np.linspace(0, largest or 1.0, _BINS + 1)
    for place, (method, group) in enumerate(distances.groupby("method", sort=False)):
        counts, _ = np.histogram(group["distance"], edges)
        figure.add_scatter(
            x=edges,
            y=100 * np.append(counts, counts[-1]) / len(group),
            mode="lines",
            name=titles.get(str(method), str(method)),
            line={
                "color": looks[str(method)].colour,
                "dash": dash_of(place),
                "shape": "hv",
                "width": 3,
            },
            hovertemplate="from %{x:.3f}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    return apply_style(
        figure,
        title=f"Distance to {what}",
        x="distance between unit features (0 to 2)",
        y="share of a method's values (%)",
    )


def distance_table(distances: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    """Return, per method, the number of distances and quantiles of them."""
    return _quantiles(distances, "distance", titles, counted="values")


def bars_figure(space: pd.DataFrame, columns: list[str], methods: dict[str, str]) -> go.Figure:
    """Draw measures side by side, a bar with its value per method.

    Args:
        space: The result of `diversity_tables.space_table`.
        columns: Which of its columns.
        methods: The method that each row belongs to, by the row's title; it has the colour.
    """
    figure = make_subplots(1, len(columns), subplot_titles=columns, horizontal_spacing=0.07)
    mine = space.loc[[title for title in space.index if title in methods]]
    found = method_styles(methods.values())
    looks = [found[methods[title]] for title in mine.index]
    for place, column in enumerate(columns, start=1):
        values = mine[column]
        bars = go.Bar(
            x=list(mine.index),
            y=values,
            marker={
                "color": [look.colour for look in looks],
                "pattern": {"shape": [pattern_of(look.cue) for look in looks]},
            },
            text=["–" if pd.isna(value) else f"{value:.3g}" for value in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.4g}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=place)
    apply_style(figure, title="Means over the classes", x="", y="", height=400)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title={"text": "value (no unit)"}, col=1)
    return figure.update_layout(showlegend=False, margin={"t": 90})


def _quantiles(
    frame: pd.DataFrame, column: str, titles: dict[str, str], *, counted: str
) -> pd.DataFrame:
    rows = {}
    for method, group in frame.groupby("method", sort=False):
        values = group[column].dropna()
        known = {name: values.quantile(q) for name, q in _QUANTILES.items()}
        rows[titles.get(str(method), str(method))] = {counted: len(values), **known}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


_SIDE = 48  # of a thumbnail as it is sent, in pixels
_SHOWN = 144  # and as it is shown

# Plotly draws no images on hover, and its FigureWidget needs a further package and a kernel that
# answers. A page of its own needs neither; the slider makes its points reachable by keyboard.
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>{theme}
body {{ margin: 0; font: 13px/1.4 system-ui, sans-serif;
 display: grid; grid-template-columns: minmax(0, 1fr) {shown}px; gap: 8px; }}
main {{ grid-area: 1 / 1; min-width: 0; }} aside {{ grid-area: 1 / 2; padding-top: 56px; }}
i {{ display: block; width: {shown}px; height: {shown}px; margin-bottom: 6px;
 background-color: rgba(128,128,128,.2); image-rendering: pixelated; }}
i.on {{ background-image: url(data:image/{kind};base64,{sheet}); background-size: {size}; }}
i[hidden] {{ display: none; }}
input {{ width: 100%; margin: 0; box-sizing: border-box; }}</style></head>
<body><aside><i></i><i hidden></i><p id="told" aria-live="polite">Point at an
image, or use the slider.</p><input type="range" min="0" max="{last}" value="0"
aria-label="Image by number"></aside><main><div id="plot"></div></main>
<script type="text/plain" id="library">{library}</script><script>{script}</script></body></html>"""

_SCRIPT = """
const {figure, config, names, columns, side} = DATA;
const plot = document.getElementById('plot'), told = document.getElementById('told');
const boxes = document.querySelectorAll('aside i');
function show(places) {
  boxes.forEach((box, k) => {
    box.hidden = k > 0 && k >= places.length;
    if (k >= places.length) return;
    const row = Math.floor(places[k] / columns), column = places[k] % columns;
    box.className = 'on';
    box.style.backgroundPosition = `-${column * side}px -${row * side}px`;
  });
  told.textContent = places.map(place => names[place]).join(' — ');
}
document.querySelector('input').addEventListener('input', event => {
  const wanted = Number(event.target.value);
  show([wanted]);
  plot.data.forEach((trace, curveNumber) => {
    if (trace.type !== 'scatter') return;
    const pointNumber = trace.customdata.findIndex(data => data[0] === wanted);
    if (pointNumber >= 0) Plotly.Fx.hover(plot, [{curveNumber, pointNumber}]);
  });
});
function followLab() {  // within JupyterLab, its theme rules, and may change
  const lab = parent.document.body, mine = document.documentElement;
  const theirs = {paper: 'layout-color0', ink: 'ui-font-color1', soft: 'ui-font-color2'};
  for (const [name, wanted] of Object.entries(theirs)) {
    const colour = getComputedStyle(lab).getPropertyValue(`--jp-${wanted}`);
    if (colour) mine.style.setProperty(`--${name}`, colour);
  }
  const light = lab.dataset.jpThemeLight;
  if (light) mine.style.colorScheme = light === 'true' ? 'light' : 'dark';
}
if (parent !== window) {
  followLab();
  new MutationObserver(followLab).observe(parent.document.body, {attributes: true});
}
(async () => {
  const packed = atob(document.getElementById('library').textContent);
  const bytes = new Blob([Uint8Array.from(packed, letter => letter.charCodeAt(0))]);
  const library = document.createElement('script');
  const unpacked = bytes.stream().pipeThrough(new DecompressionStream('gzip'));
  library.text = await new Response(unpacked).text();
  document.head.append(library);
  await Plotly.newPlot(plot, figure.data, figure.layout, config);
  plot.on('plotly_hover', event => show(event.points[0].customdata));
})();
"""


def hover_page(figure: go.Figure, images: Tensor, names: Sequence[str], title: str) -> str:
    """Return a whole page of about 2 MB that needs no network and no kernel.

    Args:
        figure: Its points' `customdata` are lists of places among the images, one or two of them.
        images: uint8 [n, 3, S, S].
        names: What each image is.
        title: The page's.
    """
    sheet = sprites(images, _SIDE)
    data = {
        "figure": json.loads(figure.to_json()),
        "config": CONFIG,
        "names": list(names),
        "columns": sheet.columns,
        "side": _SHOWN,
    }
    return _PAGE.format(
        title=html.escape(title),
        theme=PAGE_CSS + PLOTLY_CSS,
        library=_library(),
        script=_SCRIPT.replace("DATA", _inert(json.dumps(data))),
        shown=_SHOWN,
        kind=sheet.kind,
        sheet=base64.b64encode(sheet.picture).decode(),
        size=f"{sheet.columns * _SHOWN}px {sheet.rows * _SHOWN}px",
        last=len(names) - 1,
    )


def framed(page: str, *, title: str, height: int) -> str:
    """Return a page as a frame within another."""
    return (
        f'<iframe title="{html.escape(title, quote=True)}" style="width:100%;height:{height}px;'
        f'border:0" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


@lru_cache(maxsize=1)
def _library() -> str:
    """Return plotly.js as text of 2 MB, which the page unpacks, where it has 5 MB by itself.

    The page cannot take it from elsewhere: the lab's own copy is out of reach, and the run may lie
    outside the folder that the lab serves.
    """
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _inert(text: str) -> str:
    """Return JSON that cannot end the script that it stands in."""
    return text.replace("<", "\\u003c")
