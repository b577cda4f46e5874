"""Figures of a run's diversity: curves, similarity matrices, maps with their images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from prism_nb.core.device import num_threads
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.data.distilled import load_subset
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import cached, features_and_logits
from prism_nb.diversity.metrics import METRICS, Metric, normalize_rows
from prism_nb.diversity.predictions import Predictions, predict
from prism_nb.models.pool import load_teacher
from prism_nb.viz.html import CONFIG, Deck, render_page
from prism_nb.viz.inspector import deck_json, inspector_script
from prism_nb.viz.style import SYMBOLS, TEXT_COLOR, Legend, apply_style
from prism_nb.viz.tables import image_keys, image_table

MAX_POINTS = 2000  # images on a map
MAX_IN_MATRIX = 100  # images of each method in a similarity matrix
MIN_REAL = 50  # real images per class on a map, however few images the methods have
UMAP_NEIGHBOURS = 15
MAPS = {"pca": "PCA", "umap": "UMAP"}
COLORS = ("method", "class", "recognised", "loss")  # of points: by the feature network
_MIN_IMAGES = {"pca": 2, "umap": 5}
_SEED = 0
_BETTER = {"↓": " (lower is better)", "↑": " (higher is better)", "": ""}
_OF = {"vendi": "all images", "vendi_recognised": "recognised images only"}
_LOSS_COLORS = ["#4AA3DF", "#B58ABD", "#E0442E"]  # from low to high, on white and on black
_MATRIX_COLUMNS = 3
_MATRIX_HEIGHT = 270  # pixels


def fidelity_figure(fidelity: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw the number of different images against recognition, of all and of recognised images.

    `fidelity` is a `fidelity_table`.
    """
    recognised = METRICS["recognised"].heading.rstrip(" ↑↓")
    columns = {METRICS[name].title: of for name, of in _OF.items()}
    long = fidelity.reset_index().melt(["method", recognised], list(columns), "of", "different")
    figure = px.scatter(
        legend.rename(long.dropna().replace({"of": columns})),
        x=recognised,
        y="different",
        symbol="of",
        symbol_map={"all images": "circle", "recognised images only": "circle-open"},
        range_x=[-3, 103],
        **legend.scales("color"),
    )
    figure.update_traces(marker={"size": 12})
    figure.update_traces(marker_line_width=2, selector={"marker.symbol": "circle-open"})
    figure.add_vrect(
        *(0, 50),
        fillcolor=TEXT_COLOR,
        opacity=0.1,
        line_width=0,
        annotation={"text": "fewer than half are recognised: noise counts", "font": {"size": 11}},
        annotation_position="bottom left",
    )
    return apply_style(
        figure.update_yaxes(rangemode="tozero"),
        title="Diversity against recognition: how many images of a class differ, and are the class",
        x="recognised by outside networks (%)",
        y="different images (Vendi score)",
    )


def curve_figure(
    values: pd.DataFrame, legend: Legend, metric: Metric, *, directed: bool = True
) -> go.Figure:
    """Draw a `class_metric_table`, sorted for each method by itself (as in the PRISM paper).

    `directed`: whether the title says which direction is better.
    """
    long = values.reset_index().melt("class", var_name="method").dropna()
    curves = long.sort_values("value", kind="stable")
    curves["rank"] = curves.groupby("method").cumcount() + 1
    curves["value"] *= 100 if metric.percent else 1
    figure = px.line(
        legend.rename(curves),
        x="rank",
        y="value",
        hover_name="class",
        markers=len(curves) <= 200,
        **legend.scales("color", "line_dash", "symbol"),
    )
    title = metric.title[0].upper() + metric.title[1:]
    return apply_style(
        figure,
        title=f"{title}, classes in ascending order{_BETTER[metric.better if directed else '']}",
        x="rank of the class (hover for its name)",
        y=metric.title + (" (%)" if metric.percent else ""),
    )


def nearest_figure(distances: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw the cumulative distribution of the distances of a `nearest_table`."""
    figure = px.ecdf(
        legend.rename(distances),
        x="distance",
        ecdfnorm="percent",
        **legend.scales("color", "line_dash"),
    )
    return apply_style(
        figure,
        title="Distance of every image to the nearest training image of its class",
        x="distance between unit features (0 to 2)",
        y="images at this distance or nearer (%)",
    )


@dataclass(frozen=True)
class FeaturePoints:
    """Images and their features."""

    network: str  # the feature network
    table: pd.DataFrame  # `method`, `class` and `image_index` of each image
    pixels: Tensor  # uint8 [n, 3, S, S]
    features: Tensor  # unit vectors, float64 [n, d]
    predictions: Predictions  # the network's predictions
    available: int  # number of images before subsampling

    @property
    def count(self) -> str:
        """The number of images, and of how many, as text."""
        shown = len(self.table)
        return (
            f"{shown} of {self.available} images" if shown < self.available else f"{shown} images"
        )


def load_points(
    run: Run,
    network: str,
    methods: Sequence[str],
    classes: Sequence[int],
    *,
    most: int = MAX_POINTS,
    min_real: int = MIN_REAL,
) -> FeaturePoints:
    """Return the features of images of several methods.

    Where there are too many, every method gives equally many, drawn with a fixed seed: methods
    with equally many images give the same classes and indices.

    Args:
        run: The run.
        network: The feature network.
        methods: Methods, `REFERENCE` for real images.
        classes: Class indices.
        most: Largest number of images.
        min_real: Least number of real images per class; those of the reference come first.

    Raises:
        PrismError: The network is not trained, or an image cannot be read.
    """
    keys = {name: _image_keys(run, name, classes, min_real) for name in methods}
    keys = {name: found for name, found in keys.items() if found}
    if not keys:
        raise UsageError("no images of these methods, or damaged ones: run notebook 02")
    available = sum(map(len, keys.values()))
    if available > most:
        keys = {name: subsample(found, most // len(keys)) for name, found in keys.items()}
    dataset = open_dataset(run.settings)
    pixels = torch.cat([load_subset(run, name, dataset, found) for name, found in keys.items()])
    rows = [(name, *key) for name, found in keys.items() for key in found]
    table = pd.DataFrame(rows, columns=["method", "class", "image_index"])
    teacher = load_teacher(run, network)
    features, logits = cached(features_and_logits, teacher, pixels, dataset)
    device = next(teacher.parameters()).device
    labels = teacher.head_labels(torch.arange(len(dataset.classes), device=device)).tolist()
    predictions = predict(logits, labels, torch.tensor(table["class"].to_list()))
    unit = normalize_rows(features)
    return FeaturePoints(network, table, pixels, unit, predictions, available)


def subsample(keys: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most so many keys, in order; the choice depends on their number alone."""
    if len(keys) <= most:
        return list(keys)
    chosen = np.random.default_rng(_SEED).choice(len(keys), most, replace=False)
    return [keys[index] for index in sorted(chosen)]


def _image_keys(
    run: Run, name: str, classes: Sequence[int], min_real: int
) -> list[tuple[int, int]]:
    """Return class and index of each image of a method that is there."""
    if name != REFERENCE:
        table = image_table(run, name, classes)
        return image_keys(table[table["made"]])
    dataset, most = open_dataset(run.settings), max(min_real, run.settings.ipc)
    counts = {c: min(len(dataset.class_indices("train", c)), most) for c in classes}
    return [(c, index) for c, count in counts.items() for index in range(count)]


def project(features: Tensor, kind: str) -> np.ndarray:
    """Project unit vectors, float64 [n, d], onto the plane, float64 [n, 2].

    Args:
        features: The vectors.
        kind: `pca` (the two directions of largest variance) or `umap` (McInnes et al. 2018,
            cosine distance, 15 neighbours, a fixed seed).
    """
    values = features.numpy()
    if not np.isfinite(values).all():
        raise UsageError("no map: features are not finite, or all zero")
    if len(values) < _MIN_IMAGES[kind]:
        raise UsageError(
            f"{MAPS[kind]} needs {_MIN_IMAGES[kind]} images at least, and these are {len(values)}; "
            "choose more classes or methods"
        )
    if kind == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(values)
    few = len(values) <= 2 * UMAP_NEIGHBOURS  # too few for the spectral initialisation
    with num_threads():  # numba sets the number of OpenMP threads, which PyTorch uses too
        try:
            from umap import UMAP  # takes seconds to load
        except RuntimeError as error:  # numba caches compiled functions beside them or in the home
            raise UsageError(
                f"no UMAP here: {error}; set NUMBA_CACHE_DIR to a folder that you alone may write "
                "to, and restart the kernel, or choose PCA"
            ) from None
        fit = UMAP(
            n_neighbors=min(UMAP_NEIGHBOURS, len(values) - 1),
            metric="cosine",
            init="random" if few else "spectral",
            random_state=_SEED,
            n_jobs=1,
        )
        return fit.fit_transform(values.astype(np.float32)).astype(np.float64)


def map_figure(
    points: FeaturePoints,
    coordinates: np.ndarray,
    kind: str,
    legend: Legend,
    class_titles: Sequence[str],
    color: str,
) -> go.Figure:
    """Draw images as points, at the `coordinates` that `project` gives.

    Marks are those of the methods, colours of what `color`, one of `COLORS`, says. Each point's
    `customdata` is its index among the images.
    """
    methods = points.table["method"]
    names = [
        f"{legend.titles[method]}, {class_titles[c]}, image {index}"
        for method, c, index in points.table.itertuples(index=False)
    ]
    symbols = methods.map(dict(zip(legend.titles, cycle(SYMBOLS), strict=False)))
    figure = go.Figure()
    for title, shade, rows in _map_groups(points, legend, class_titles, color):
        x, y = coordinates[rows].T.tolist()
        is_real = (methods[rows] == REFERENCE).to_numpy()
        figure.add_scatter(
            x=x,
            y=y,
            name=title,
            mode="markers",
            customdata=[[row] for row in rows],  # a list, which the page of images reads
            hovertext=[names[row] for row in rows],
            hoverinfo="text",
            marker={
                **shade,
                "symbol": [
                    f"{symbols[r]}{'-open' * bool(o)}" for r, o in zip(rows, is_real, strict=True)
                ],
                "size": np.where(is_real, 7, 9),
                "line": {"width": 1},
            },
        )
    if color != "method":
        for method in dict.fromkeys(methods):
            mark = {"symbol": symbols[(methods == method).idxmax()], "color": TEXT_COLOR}
            figure.add_scatter(
                x=[None], y=[None], mode="markers", name=legend.titles[method], marker=mark
            )
    unit = "no unit: only neighbourhoods count" if kind == "umap" else "of unit features"
    apply_style(
        figure,
        title=f"{MAPS[kind]} of {points.count}, features of {points.network}",
        x=f"{MAPS[kind]} axis 1 ({unit})",
        y=f"{MAPS[kind]} axis 2",
        height=520,
    )
    return figure.update_layout(hovermode="closest")


def _map_groups(
    points: FeaturePoints, legend: Legend, class_titles: Sequence[str], color: str
) -> Iterator[tuple[str, dict[str, Any], list[int]]]:
    """Yield title, marker and rows of the points of each colour."""
    table, found = points.table, points.predictions
    classes = table["class"].to_numpy()
    if color == "loss":
        loss = found.loss.numpy()
        bar = {"title": {"text": "loss (nats)"}, "outlinewidth": 0, "x": 1.0, "len": 0.5, "y": 0.2}
        shade = {"color": loss, "colorscale": _LOSS_COLORS, "cmin": 0, "colorbar": bar}
        yield "", {**shade, "cmax": float(np.quantile(loss, 0.95)) or 1.0}, [*range(len(table))]
        return
    groups: dict[str, tuple[str, np.ndarray]] = {}
    if color == "method":
        for method in dict.fromkeys(table["method"]):
            rows = (table["method"] == method).to_numpy()
            groups[legend.titles[method]] = (legend.color(method), rows)
    elif color == "class":
        shown = sorted(set(classes))
        for place, c in enumerate(shown):
            groups[class_titles[c]] = (f"hsl({360 * place // len(shown)}, 65%, 55%)", classes == c)
    else:
        hits = found.classes[:, 0].numpy() == classes
        groups = {"recognised": ("#228833", hits), "not recognised": ("#EE6677", ~hits)}
    for title, (shade_of, rows) in groups.items():
        if rows.any():
            yield title, {"color": shade_of}, np.flatnonzero(rows).tolist()


def similarity_matrices(points: FeaturePoints) -> dict[str, pd.DataFrame]:
    """Return the cosines of all pairs of each method's images [n, n], by their row in `points`."""
    matrices = {}
    for method, group in points.table.groupby("method", sort=False):
        z = points.features[group.index.to_list()].numpy()
        matrices[str(method)] = pd.DataFrame(z @ z.T, group.index, group.index)
    return matrices


def similarity_figure(points: FeaturePoints, legend: Legend, title: str) -> go.Figure:
    """Draw the similarity matrix of each method's images of one class.

    A cell's `customdata` is the indices of its two images.
    """
    matrices = similarity_matrices(points)
    columns = min(_MATRIX_COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[legend.titles[method] for method in matrices],
        horizontal_spacing=0.08,
        vertical_spacing=0.34 / rows,
    )
    for index, matrix in enumerate(matrices.values()):
        members = matrix.index
        labels = points.table.loc[members, "image_index"].astype(str)
        heat = go.Heatmap(
            z=matrix.to_numpy(),
            x=labels,
            y=labels,
            coloraxis="coloraxis",
            customdata=np.stack(np.meshgrid(members, members, indexing="ij"), axis=-1).tolist(),
            hovertemplate="images %{y} and %{x}: %{z:.3f}<extra></extra>",
        )
        figure.add_trace(heat, row=index // columns + 1, col=index % columns + 1)
    apply_style(figure, title=title, x="image", y="image", height=130 + rows * _MATRIX_HEIGHT)
    low = min(0.0, *(float(matrix.min(axis=None)) for matrix in matrices.values()))
    scale = {
        "colorscale": "Cividis",
        "cmin": low,
        "cmax": 1,
        "colorbar": {"title": {"text": "cosine"}},
    }
    figure.update_layout(coloraxis=scale)
    # Image indices are names: as numbers, plotly would put halves between them.
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure.update_xaxes(showgrid=False, type="category")


def similarity_table(points: FeaturePoints) -> pd.DataFrame:
    """Return each method's number of images and mean, least and largest cosine of a pair."""
    rows = {}
    for method, matrix in similarity_matrices(points).items():
        pairs = pd.Series(matrix.to_numpy()[np.triu_indices(len(matrix), 1)])  # none: NaN
        values = {"mean": pairs.mean(), "least": pairs.min(), "largest": pairs.max()}
        rows[method] = {"images": len(matrix), **values}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


_TRAY = 230  # pixels below a figure, for the images of its points


def image_page(figure: go.Figure, deck: Deck) -> tuple[str, int]:
    """Return an offline page with a figure above images of its points, and its height in pixels.

    A click or a lasso chooses images, and a click on an image opens the inspector. The figure's
    `customdata` are lists of tiles of the deck.
    """
    script = render_page("image_page.html", deck=deck_json(deck), script=inspector_script())
    drawn = go.Figure(figure).update_layout(dragmode="lasso")
    page = str(drawn.to_html(config=CONFIG, div_id="figure"))
    return page.replace("</body>", f"{script}</body>"), int(figure.layout.height) + _TRAY
