"""Figures of a study: who leads, how diverse and how true the images are, and at what price."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.viz.html import LabelMap
from prism_nb.viz.style import (
    TEXT_COLOR,
    MethodStyle,
    apply_style,
    colour_of,
    empty_figure,
    method_styles,
    symbol_of,
)

_STUDENT_MARKS = ("line-ns-open", "x-thin-open", "asterisk-open", "y-up-open", "hash-open")
_CUES = ("", "-dot")  # within a mark, where colours have run out
_ROW_HEIGHT = 22  # pixels per method in a facet
_TICKS = 26  # pixels that the labels of an axis take
_NOT_STUDENTS = {"scenario", "method", "mean", "low", "high", "std", "replicates"}


@dataclass(frozen=True)
class StudyLabels:
    """What people call the methods and scenarios of a study.

    Attributes:
        methods: Titles of methods.
        scenarios: Titles of scenarios, in the study's order.
    """

    methods: dict[str, str]
    scenarios: dict[str, str]

    def method(self, name: str) -> str:
        """Return a method's title, or its name where it has none."""
        return self.methods.get(name, name)

    def symbol(self, scenario: str) -> str:
        """Return the mark that stands for a scenario."""
        return symbol_of(list(self.scenarios).index(scenario))

    @property
    def words(self) -> LabelMap:
        """What the names in a study's tables stand for, see `html.in_words`."""
        of_methods = dict.fromkeys(("method", "a", "b", "verdict"), self.methods)
        return {**of_methods, "scenario": self.scenarios}

    def looks(self, shown: Iterable[str]) -> dict[str, MethodStyle]:
        """Return how each method looks; those without a title may be shown too."""
        return method_styles([*self.methods, *shown])


def facets(
    names: StudyLabels, shown: set[str], *, columns: int, shared: bool, wide: float, high: float
) -> tuple[go.Figure, dict[str, dict[str, int]], int]:
    """Lay out a figure with one panel per scenario.

    Args:
        names: Of the scenarios.
        shown: The scenarios that there is something to show of.
        columns: Panels side by side, at most.
        shared: Whether panels of a row share their axis on the left.
        wide: Gap between columns, as a share of the figure.
        high: Gap between rows, as a share of the height of one row.

    Returns:
        The figure, where each scenario's panel is (as `row` and `col`), and the number of rows.
    """
    order = [name for name in names.scenarios if name in shown]
    across = min(columns, len(order))
    rows = -(-len(order) // across)
    figure = make_subplots(
        rows,
        across,
        subplot_titles=[names.scenarios[name] for name in order],
        shared_yaxes=shared,
        horizontal_spacing=wide,
        vertical_spacing=high / rows,
    )
    places = {
        name: {"row": place // across + 1, "col": place % across + 1}
        for place, name in enumerate(order)
    }
    return figure, places, rows


def accuracy_facets(summary: pd.DataFrame, names: StudyLabels) -> go.Figure:
    """Draw each scenario's methods with their 95 % intervals, and each student as a small mark.

    Args:
        summary: The result of `study.comparison.summary`.
        names: Of methods and scenarios.
    """
    figure, places, rows = facets(
        names, set(summary["scenario"]), columns=3, shared=True, wide=0.04, high=0.28
    )
    students = [column for column in summary.columns if column not in _NOT_STUDENTS]
    methods = [names.method(m) for m in dict.fromkeys(summary["method"])]
    looks = names.looks(summary["method"])
    for scenario, place in places.items():
        first = scenario == next(iter(places))
        part = summary[summary["scenario"] == scenario]
        titles = [names.method(m) for m in part["method"]]
        for number, student in enumerate(students):
            mark = _student_mark(number)
            figure.add_scatter(
                x=part[student], y=titles, name=student, showlegend=first, **mark, **place
            )
        figure.add_scatter(
            x=part["mean"], y=titles, showlegend=first, **_mean_mark(part, looks), **place
        )
        figure.update_yaxes(categoryorder="array", categoryarray=methods[::-1], **place)
    height = rows * (120 + _ROW_HEIGHT * len(methods)) + 60
    apply_style(
        figure,
        title="Top-1 on held-out real images (%), mean over students with its 95 % interval",
        x="",
        y="",
        height=height,
    )
    margin = {"l": 150, "t": 90, "b": 70}
    below = _TICKS / (height - margin["t"] - margin["b"])
    legend = {"orientation": "h", "y": -below, "yanchor": "top"}
    return figure.update_layout(margin=margin, legend=legend)


def fidelity_figure(images: pd.DataFrame, names: StudyLabels) -> go.Figure:
    """Draw diversity against fidelity, a colour per method and a symbol per scenario.

    Images that are still noise look diverse: only what stands to the right counts.

    Args:
        images: The result of `study.results.image_records`.
        names: Of methods and scenarios.
    """
    mean = images.groupby(["scenario", "method"], sort=False).mean(numeric_only=True).reset_index()
    mean = mean.dropna(subset=["cosine"])  # undefined at one image per class
    figure = _cloud(mean, names, x="recognised %", y="cosine", unit="% recognised, cosine")
    real = mean.groupby("scenario", sort=False).first().reset_index()
    figure.add_scatter(
        x=real["real recognised %"],
        y=real["real cosine"],
        mode="markers",
        name="Real images (yardstick)",
        marker={
            "color": colour_of("real"),
            "size": 13,
            "symbol": [f"{names.symbol(s)}-open" for s in real["scenario"]],
            "line": {"width": 2},
        },
        text=[names.scenarios[s] for s in real["scenario"]],
        hovertemplate="%{text}<extra>real images</extra>",
    )
    return apply_style(
        figure,
        title="Diversity beside fidelity (a symbol per scenario)",
        x="recognised by the feature networks (%)",
        y="intra-class cosine (lower is more diverse)",
    )


def cost_figure(images: pd.DataFrame, summary: pd.DataFrame, names: StudyLabels) -> go.Figure:
    """Draw accuracy against the time that an image takes to make.

    Args:
        images: The result of `study.results.image_records`.
        summary: The result of `study.comparison.summary`.
        names: Of methods and scenarios.
    """
    keys = ["scenario", "method"]
    cost = images.groupby(keys, sort=False)["seconds per image"].mean().reset_index()
    both = summary.merge(cost, on=keys)
    figure = _cloud(both, names, x="seconds per image", y="mean", unit="s per image, top-1 %")
    apply_style(
        figure,
        title="What an image costs and what the set teaches (a symbol per scenario)",
        x="seconds of synthesis per image (log scale)",
        y="top-1, mean over students (%)",
    )
    return figure.update_xaxes(type="log")


def _cloud(frame: pd.DataFrame, names: StudyLabels, *, x: str, y: str, unit: str) -> go.Figure:
    """Draw a mark per method and scenario."""
    figure, looks = go.Figure(), names.looks(frame["method"])
    for method, part in frame.groupby("method", sort=False):
        look = looks[str(method)]
        figure.add_scatter(
            x=part[x],
            y=part[y],
            mode="markers",
            name=names.method(str(method)),
            marker={
                "color": look.colour,
                "size": 11,
                "symbol": [names.symbol(s) + _CUES[look.cue % 2] for s in part["scenario"]],
            },
            text=[names.scenarios[s] for s in part["scenario"]],
            hovertemplate=f"%{{text}}<br>%{{x:.3g}}, %{{y:.3g}} ({unit})"
            "<extra>%{fullData.name}</extra>",
        )
    return figure


def _student_mark(number: int) -> dict[str, object]:
    return {
        "mode": "markers",
        "legendgroup": str(number),
        "marker": {
            "symbol": _STUDENT_MARKS[number % len(_STUDENT_MARKS)],
            "size": 8,
            "color": TEXT_COLOR,
            "line": {"width": 1.5, "color": TEXT_COLOR},
        },
        "hovertemplate": "%{y}, %{fullData.name}: %{x:.1f} %<extra></extra>",
    }


def _mean_mark(part: pd.DataFrame, looks: dict[str, MethodStyle]) -> dict[str, object]:
    return {
        "mode": "markers",
        "name": "mean over students",
        "legendgroup": "mean",
        "marker": {"size": 11, "color": [looks[m].colour for m in part["method"]]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": (part["high"] - part["mean"]).fillna(0),
            "arrayminus": (part["mean"] - part["low"]).fillna(0),
            "thickness": 2,
        },
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }


def pair_facets(pairs: pd.DataFrame, names: StudyLabels) -> go.Figure:
    """Draw every difference: a cell is row minus column in points, ● where it exceeds the spread.

    Args:
        pairs: The result of `study.comparison.compare_pairs`.
        names: Of methods and scenarios.

    Returns:
        The figure; an empty one where there is no pair.
    """
    if not len(pairs):
        return empty_figure("One method has no rival")
    figure, places, rows = facets(
        names, set(pairs["scenario"]), columns=2, shared=False, wide=0.16, high=0.32
    )
    most = float(np.nanmax(pairs["difference"].abs()))
    methods = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    titles = [names.method(m) for m in methods]
    for scenario, place in places.items():
        differences, text = _matrix(pairs[pairs["scenario"] == scenario], methods)
        figure.add_heatmap(
            z=differences,
            x=titles,
            y=titles,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale="RdBu",
            zmin=-most,
            zmax=most,
            showscale=False,
            hovertemplate="%{y} minus %{x}: %{z:.1f} points<extra></extra>",
            **place,
        )
    figure.update_yaxes(autorange="reversed")
    apply_style(
        figure,
        title="Row minus column, points of accuracy; ● exceeds the spread (paired t, Holm, 5 %)",
        x="",
        y="",
        height=rows * (170 + 30 * len(methods)) + 40,
    )
    return figure.update_layout(margin={"l": 140, "t": 90})


def _matrix(part: pd.DataFrame, methods: list[str]) -> tuple[np.ndarray, list[list[str]]]:
    place = {method: index for index, method in enumerate(methods)}
    differences = np.full((len(methods), len(methods)), np.nan)
    text = [["" for _ in methods] for _ in methods]
    for pair in part.itertuples(index=False):
        for a, b, sign in ((pair.a, pair.b, 1), (pair.b, pair.a, -1)):
            differences[place[a], place[b]] = sign * pair.difference
            mark = "" if pair.verdict == "open" else " ●"
            text[place[a]][place[b]] = f"{sign * pair.difference:+.1f}{mark}"
    return differences, text
