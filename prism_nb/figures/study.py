"""Figures of a study: who leads, by how much, and at what price."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.figures.style import colour_of, styled

_ROW_HEIGHT = 22  # pixels per method in a facet
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "hexagon", "cross")
_STUDENT_MARKS = ("line-ns-open", "x-thin-open", "asterisk-open", "y-up-open", "hash-open")


def accuracy_facets(
    summary: pd.DataFrame, titles: dict[str, str], scenarios: dict[str, str]
) -> go.Figure:
    """Draw each scenario's methods with their 95 % intervals, and each student as a small mark.

    Args:
        summary: The result of `study.comparison.summary`.
        titles: How each method is called.
        scenarios: How each scenario is called, in order.
    """
    shown = [name for name in scenarios if name in set(summary["scenario"])]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[scenarios[name] for name in shown],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.28 / rows,
    )
    students = [c for c in summary.columns if c not in _SUMMARY_COLUMNS]
    methods = list(dict.fromkeys(summary["method"]))
    for place, name in enumerate(shown):
        row, column = place // columns + 1, place % columns + 1
        part = summary[summary["scenario"] == name].set_index("method")
        _facet(figure, part, students, titles, (row, column), first=place == 0)
        order = [titles.get(m, m) for m in reversed(methods)]
        figure.update_yaxes(categoryorder="array", categoryarray=order, row=row, col=column)
    styled(
        figure,
        title="Top-1 on held-out real images (%), mean over students with its 95 % interval",
        x="",
        y="",
        height=rows * (120 + _ROW_HEIGHT * len(methods)) + 60,
    )
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    figure.update_xaxes(**grid).update_yaxes(**grid)
    return figure.update_layout(margin={"l": 150, "t": 90}, legend={"orientation": "h", "y": -0.06})


_SUMMARY_COLUMNS = {"scenario", "method", "mean", "low", "high", "std", "replicates"}


def _facet(
    figure: go.Figure,
    part: pd.DataFrame,
    students: list[str],
    titles: dict[str, str],
    cell: tuple[int, int],
    *,
    first: bool,
) -> None:
    names = [titles.get(str(m), str(m)) for m in part.index]
    for place, student in enumerate(students):
        figure.add_scatter(
            x=part[student],
            y=names,
            mode="markers",
            name=student,
            legendgroup=student,
            showlegend=first,
            marker={
                "symbol": _STUDENT_MARKS[place % len(_STUDENT_MARKS)],
                "size": 8,
                "color": "#888888",
                "line": {"width": 1.5, "color": "#888888"},
            },
            hovertemplate=f"%{{y}}, {student}: %{{x:.1f}} %<extra></extra>",
            row=cell[0],
            col=cell[1],
        )
    figure.add_scatter(
        x=part["mean"],
        y=names,
        mode="markers",
        name="mean over students",
        legendgroup="mean",
        showlegend=first,
        marker={"size": 11, "color": [colour_of(str(m)) for m in part.index]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (part["high"] - part["mean"]).fillna(0),
            "arrayminus": (part["mean"] - part["low"]).fillna(0),
            "thickness": 2,
            "color": "#666666",
        },
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        row=cell[0],
        col=cell[1],
    )


def fidelity_figure(
    images: pd.DataFrame, titles: dict[str, str], scenarios: dict[str, str]
) -> go.Figure:
    """Draw diversity against fidelity, a colour per method and a symbol per scenario.

    Images that are still noise look diverse: only what stands to the right counts.

    Args:
        images: The result of `study.results.image_records`.
        titles: How each method is called.
        scenarios: How each scenario is called, in order.
    """
    mean = images.groupby(["scenario", "method"], sort=False).mean(numeric_only=True).reset_index()
    mean = mean.dropna(subset=["cosine"])  # undefined at one image per class
    symbols = {name: _SYMBOLS[i % len(_SYMBOLS)] for i, name in enumerate(scenarios)}
    figure = go.Figure()
    for method, part in mean.groupby("method", sort=False):
        figure.add_scatter(
            x=part["recognised %"],
            y=part["cosine"],
            mode="markers",
            name=titles.get(str(method), str(method)),
            marker={
                "color": colour_of(str(method)),
                "size": 11,
                "symbol": [symbols[s] for s in part["scenario"]],
            },
            text=[scenarios[s] for s in part["scenario"]],
            hovertemplate="%{text}<br>recognised %{x:.0f} %, cosine %{y:.3f}"
            "<extra>%{fullData.name}</extra>",
        )
    real = mean.groupby("scenario", sort=False)[["real recognised %", "real cosine"]].mean()
    figure.add_scatter(
        x=real["real recognised %"],
        y=real["real cosine"],
        mode="markers",
        name="Real images (yardstick)",
        marker={
            "color": "#777777",
            "size": 13,
            "symbol": [f"{symbols[str(s)]}-open" for s in real.index],
            "line": {"width": 2},
        },
        text=[scenarios[str(s)] for s in real.index],
        hovertemplate="%{text}<extra>real images</extra>",
    )
    return styled(
        figure,
        title="Diversity beside fidelity (a symbol per scenario)",
        x="recognised by a network that took no part (%)",
        y="intra-class cosine (lower is more diverse)",
    )


def cost_figure(
    images: pd.DataFrame,
    summary: pd.DataFrame,
    titles: dict[str, str],
    scenarios: dict[str, str],
) -> go.Figure:
    """Draw accuracy against the time that an image takes to make.

    Args:
        images: The result of `study.results.image_records`.
        summary: The result of `study.comparison.summary`.
        titles: How each method is called.
        scenarios: How each scenario is called, in order.
    """
    cost = images.groupby(["scenario", "method"], sort=False)["seconds per image"].mean()
    both = summary.merge(cost.reset_index(), on=["scenario", "method"])
    symbols = {name: _SYMBOLS[i % len(_SYMBOLS)] for i, name in enumerate(scenarios)}
    figure = go.Figure()
    for method, part in both.groupby("method", sort=False):
        figure.add_scatter(
            x=part["seconds per image"],
            y=part["mean"],
            mode="markers",
            name=titles.get(str(method), str(method)),
            marker={
                "color": colour_of(str(method)),
                "size": 11,
                "symbol": [symbols[s] for s in part["scenario"]],
            },
            text=[scenarios[s] for s in part["scenario"]],
            hovertemplate="%{text}<br>%{x:.3g} s per image, %{y:.1f} %"
            "<extra>%{fullData.name}</extra>",
        )
    styled(
        figure,
        title="What an image costs and what the set teaches (a symbol per scenario)",
        x="seconds of synthesis per image, one CPU thread (log scale)",
        y="top-1, mean over students (%)",
    )
    return figure.update_xaxes(type="log")


def pair_facets(
    pairs: pd.DataFrame, titles: dict[str, str], scenarios: dict[str, str]
) -> go.Figure:
    """Draw who beats whom: a cell is row minus column in points, ringed where it exceeds chance.

    Args:
        pairs: The result of `study.comparison.compare_pairs`.
        titles: How each method is called.
        scenarios: How each scenario is called, in order.
    """
    shown = [name for name in scenarios if name in set(pairs["scenario"])]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[scenarios[name] for name in shown],
        horizontal_spacing=0.16,
        vertical_spacing=0.32 / rows,
    )
    most = float(np.nanmax(pairs["difference"].abs())) if len(pairs) else 1.0
    longest = 0
    for place, name in enumerate(shown):
        part = pairs[pairs["scenario"] == name]
        methods = list(dict.fromkeys([*part["a"], *part["b"]]))
        longest = max(longest, len(methods))
        grid, text = _matrix(part, methods)
        names = [titles.get(m, m) for m in methods]
        figure.add_heatmap(
            z=grid,
            x=names,
            y=names,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale="RdBu",
            zmid=0,
            zmin=-most,
            zmax=most,
            showscale=False,
            hovertemplate="%{y} minus %{x}: %{z:.1f} points<extra></extra>",
            row=place // columns + 1,
            col=place % columns + 1,
        )
    figure.update_yaxes(autorange="reversed")
    styled(
        figure,
        title="Row minus column, points of accuracy; ● exceeds the spread (paired t, Holm, 5 %)",
        x="",
        y="",
        height=rows * (170 + 30 * longest) + 40,
    )
    return figure.update_layout(margin={"l": 140, "t": 90})


def _matrix(part: pd.DataFrame, methods: list[str]) -> tuple[np.ndarray, list[list[str]]]:
    place = {method: index for index, method in enumerate(methods)}
    grid = np.full((len(methods), len(methods)), np.nan)
    text = [["" for _ in methods] for _ in methods]
    for pair in part.itertuples(index=False):
        for a, b, sign in ((pair.a, pair.b, 1), (pair.b, pair.a, -1)):
            grid[place[a], place[b]] = sign * pair.difference
            mark = "" if pair.verdict == "open" else " ●"
            text[place[a]][place[b]] = f"{sign * pair.difference:+.1f}{mark}"
    return grid, text
