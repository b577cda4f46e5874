"""Figures of a study: accuracy with intervals, pairs, diversity and cost, a panel per scenario."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.core.settings import REFERENCE
from prism_nb.viz.style import TEXT_COLOR, Legend, apply_style, symbol_of

_STUDENT_MARKS = ("line-ns-open", "x-thin-open", "asterisk-open", "y-up-open", "hash-open")
_NOT_STUDENTS = {"scenario", "method", "mean", "low", "high", "std", "replicates"}
Titles = Mapping[str, str]  # of scenarios, in the study's order


def accuracy_facets(summary: pd.DataFrame, legend: Legend, scenarios: Titles) -> go.Figure:
    """Draw each scenario's methods with their 95 % intervals, and each student as a small mark.

    Args:
        summary: The result of `study_report.summarize`.
        legend: The study's methods.
        scenarios: Titles of scenarios.
    """
    figure, cells, rows = _facets(summary, scenarios, columns=3, wide=0.04, high=0.28, shared=True)
    students = [column for column in summary.columns if column not in _NOT_STUDENTS]
    titles = [legend.titles[method] for method in dict.fromkeys(summary["method"])]
    for position, (scenario, cell) in enumerate(cells.items()):
        part = summary[summary["scenario"] == scenario]
        y = part["method"].map(legend.titles)
        marks = {student: _student_mark(index) for index, student in enumerate(students)}
        for student, mark in marks.items():
            figure.add_scatter(
                x=part[student],
                y=y,
                name=student,
                legendgroup=student,
                showlegend=position == 0,
                mode="markers",
                marker=mark,
                hovertemplate="%{y}, %{fullData.name}: %{x:.1f} %<extra></extra>",
                **cell,
            )
        figure.add_scatter(
            x=part["mean"],
            y=y,
            name="mean over students",
            legendgroup="mean",
            showlegend=position == 0,
            mode="markers",
            marker={"size": 11, "color": [legend.colour(m) for m in part["method"]]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (part["high"] - part["mean"]).fillna(0),
                "arrayminus": (part["mean"] - part["low"]).fillna(0),
                "thickness": 2,
            },
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
            **cell,
        )
        figure.update_yaxes(categoryorder="array", categoryarray=titles[::-1], **cell)
    height = rows * (120 + 22 * len(titles)) + 60
    title = "Top-1 on held-out real images (%), mean over students with its 95 % interval"
    apply_style(figure, title=title, x="", y="", height=height)
    return figure.update_layout(
        margin={"l": 150, "t": 90, "b": 70},
        legend={"orientation": "h", "y": -26 / (height - 160), "yanchor": "top"},
    )


def _student_mark(index: int) -> dict[str, Any]:
    return {
        "symbol": _STUDENT_MARKS[index % len(_STUDENT_MARKS)],
        "size": 8,
        "color": TEXT_COLOR,
        "line": {"width": 1.5, "color": TEXT_COLOR},
    }


def _facets(
    table: pd.DataFrame,
    scenarios: Titles,
    *,
    columns: int,
    wide: float,
    high: float,
    shared: bool = False,
) -> tuple[go.Figure, dict[str, dict[str, int]], int]:
    """Return a figure with a panel per scenario, the panel of each, and the number of rows.

    Args:
        table: With a column `scenario`.
        scenarios: Titles of scenarios.
        columns: Most panels in a row.
        wide: Gap between columns, as a share of the figure.
        high: Gap between rows, as a share of a row.
        shared: Whether panels of a row share their y axis.
    """
    order = [name for name in scenarios if name in set(table["scenario"])]
    across = min(columns, len(order))
    rows = -(-len(order) // across)
    figure = make_subplots(
        rows,
        across,
        subplot_titles=[scenarios[name] for name in order],
        shared_yaxes=shared,
        horizontal_spacing=wide,
        vertical_spacing=high / rows,
    )
    cells = {
        name: {"row": index // across + 1, "col": index % across + 1}
        for index, name in enumerate(order)
    }
    return figure, cells, rows


def pair_facets(pairs: pd.DataFrame, legend: Legend, scenarios: Titles) -> go.Figure:
    """Draw all differences: row minus column in points, ● where significant.

    Args:
        pairs: The result of `study_report.compare_pairs`, at least one pair.
        legend: The study's methods.
        scenarios: Titles of scenarios.
    """
    figure, cells, rows = _facets(pairs, scenarios, columns=2, wide=0.16, high=0.32)
    limit = float(np.nanmax(pairs["difference"].abs()))
    methods = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    titles = [legend.titles[method] for method in methods]
    for scenario, cell in cells.items():
        differences, text = _pair_matrix(pairs[pairs["scenario"] == scenario], methods)
        figure.add_heatmap(
            z=differences,
            x=titles,
            y=titles,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale="RdBu",
            zmin=-limit,
            zmax=limit,
            showscale=False,
            hovertemplate="%{y} minus %{x}: %{z:.1f} points<extra></extra>",
            **cell,
        )
    figure.update_yaxes(autorange="reversed")
    title = "Row minus column, points of accuracy; ● is significant (paired t, Holm, 5 %)"
    height = rows * (170 + 30 * len(methods)) + 40
    apply_style(figure, title=title, x="", y="", height=height)
    return figure.update_layout(margin={"l": 140, "t": 90})


def _pair_matrix(part: pd.DataFrame, methods: list[str]) -> tuple[np.ndarray, list[list[str]]]:
    differences = np.full((len(methods), len(methods)), np.nan)
    text = [["" for _ in methods] for _ in methods]
    for pair in part.itertuples(index=False):
        for a, b, sign in ((pair.a, pair.b, 1), (pair.b, pair.a, -1)):
            row, column = methods.index(a), methods.index(b)
            differences[row, column] = sign * pair.difference
            mark = "" if pair.winner == "none" else " ●"
            text[row][column] = f"{sign * pair.difference:+.1f}{mark}"
    return differences, text


def fidelity_figure(images: pd.DataFrame, legend: Legend, scenarios: Titles) -> go.Figure:
    """Draw diversity against fidelity, a colour per method and a symbol per scenario.

    Args:
        images: The result of `study_report.image_records`.
        legend: The study's methods and the real images.
        scenarios: Titles of scenarios.
    """
    mean = images.groupby(["scenario", "method"], sort=False).mean(numeric_only=True).reset_index()
    mean = mean.dropna(subset=["cosine"])  # undefined at one image per class
    real = mean.groupby("scenario", sort=False).first().reset_index()
    real = real.assign(
        method=REFERENCE, cosine=real["real cosine"], **{"recognised %": real["real recognised %"]}
    )
    both = pd.concat([mean, real])
    figure = _scatter(both, legend, scenarios, x="recognised %", y="cosine")
    return apply_style(
        figure,
        title="Diversity and fidelity (a symbol per scenario)",
        x="recognised by the feature networks (%)",
        y="intra-class cosine (lower is more diverse)",
    )


def cost_figure(
    images: pd.DataFrame, summary: pd.DataFrame, legend: Legend, scenarios: Titles
) -> go.Figure:
    """Draw accuracy against seconds of synthesis per image.

    Args:
        images: The result of `study_report.image_records`.
        summary: The result of `study_report.summarize`.
        legend: The study's methods.
        scenarios: Titles of scenarios.
    """
    keys = ["scenario", "method"]
    cost = images.groupby(keys, sort=False)["seconds per image"].mean().reset_index()
    both = summary.merge(cost, on=keys)
    figure = _scatter(both, legend, scenarios, x="seconds per image", y="mean")
    apply_style(
        figure,
        title="Accuracy against cost (a symbol per scenario)",
        x="seconds of synthesis per image (log scale)",
        y="top-1, mean over students (%)",
    )
    return figure.update_xaxes(type="log")


def _scatter(
    frame: pd.DataFrame, legend: Legend, scenarios: Titles, *, x: str, y: str
) -> go.Figure:
    """Draw a point per method and scenario."""
    figure, order = go.Figure(), list(scenarios)
    for method, part in frame.groupby("method", sort=False):
        figure.add_scatter(
            x=part[x],
            y=part[y],
            mode="markers",
            name=legend.titles[str(method)],
            marker={
                "color": legend.colour(str(method)),
                "size": 11,
                "symbol": [symbol_of(order.index(s)) for s in part["scenario"]],
            },
            text=part["scenario"].map(scenarios),
            hovertemplate=f"%{{text}}<br>{x} %{{x:.3g}}, {y} %{{y:.3g}}"
            "<extra>%{fullData.name}</extra>",
        )
    return figure
