"""Figures of how measures are spread: over classes, over images, and beside each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.diversity.catalogue import MEASURES, Measure
from prism_nb.figures.palette import dash_of, looks_of, pattern_of
from prism_nb.figures.style import styled

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
    per_class: pd.DataFrame, titles: dict[str, str], measure: Measure = MEASURES["cosine"]
) -> go.Figure:
    """Draw a measure of every class, sorted for each method by itself (the paper's curve).

    Args:
        per_class: The result of `diversity_tables.diversity_per_class`, for one feature network.
        titles: How each method is called.
        measure: Which of its columns; a share is drawn in percent.
    """
    figure, factor = go.Figure(), 100 if measure.percent else 1
    looks = looks_of([*titles, *per_class["method"]])
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
    return styled(
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
    figure, looks = go.Figure(), looks_of([*titles, *distances["method"]])
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
    return styled(
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
    found = looks_of(methods.values())
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
    styled(figure, title="Means over the classes", x="", y="", height=400)
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
