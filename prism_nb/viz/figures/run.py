"""Figures of the teacher pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.diversity.metrics import METRICS, Metric
from prism_nb.viz.style import (
    MethodStyle,
    apply_style,
    by_class,
    colour_at,
    dash_of,
    empty_figure,
    method_styles,
    pattern_of,
    symbol_of,
    with_alpha,
)

_MARKS = {
    "primary": ("star", colour_at(0)),
    "teacher": ("circle", colour_at(2)),
    "holdout": ("diamond-open", colour_at(3)),
}


def pool_figure(teachers: pd.DataFrame) -> go.Figure:
    """Draw accuracy against cost, one mark per network.

    Args:
        teachers: The result of `tables.teacher_table`.
    """
    figure = go.Figure()
    for role, group in teachers.groupby("role", sort=False):
        symbol, colour = _MARKS[str(role)]
        figure.add_scatter(
            x=group["MFLOPs"],
            y=group["accuracy %"],
            mode="markers+text",
            text=group.index,
            textposition="top center",
            name=str(role),
            marker={"symbol": symbol, "size": 13, "color": colour, "line": {"width": 2}},
            hovertemplate="%{text}<br>%{x:.1f} MFLOPs<br>%{y:.1f} %<extra></extra>",
        )
    apply_style(
        figure,
        title="The pool: accuracy on held-out real images against cost",
        x="forward pass of one image (MFLOPs, log scale)",
        y="top-1 accuracy (%)",
    )
    return figure.update_xaxes(type="log", nticks=6).update_layout(xaxis_range=_padded(teachers))


def _padded(teachers: pd.DataFrame) -> list[float]:
    """Leave room for names at both ends of the log axis."""
    logs = np.log10(teachers["MFLOPs"])
    return [logs.min() - 0.15, logs.max() + 0.15]


def loss_figure(losses: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw the mean over units of each term, one colour per method, one dash per term.

    Args:
        losses: The result of `tables.loss_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), method_styles([*titles, *losses["method"]])
    terms = sorted(losses["term"].unique(), reverse=True)
    mean = losses.groupby(["method", "term", "step"], sort=False)["value"].mean().reset_index()
    for (method, term), curve in mean.groupby(["method", "term"], sort=False):
        name = f"{titles.get(str(method), method)}: {term}"
        figure.add_scatter(
            x=curve["step"],
            y=curve["value"],
            mode="lines",
            name=name,
            line={
                "color": with_alpha(looks[str(method)].colour, 0.9),
                "dash": dash_of(terms.index(term)),
            },
            hovertemplate=f"{name}<br>step %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    apply_style(
        figure,
        title="Loss by named term, mean over steps and units (terms unweighted)",
        x="optimisation step",
        y="loss (log scale)",
    )
    return figure.update_yaxes(type="log")


def share_figure(shares: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw how much of each method's BN loss comes from which network, as stacked bars.

    Args:
        shares: The result of `tables.share_table`.
        titles: How each method is called.
    """
    figure = go.Figure()
    for place, (network, group) in enumerate(shares.groupby("network", sort=False)):
        figure.add_bar(
            x=[titles.get(method, method) for method in group["method"]],
            y=group["share %"],
            name=str(network),
            marker={"color": colour_at(place), "pattern": {"shape": pattern_of(place)}},
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    apply_style(
        figure,
        title="Who steers the statistics: share of the weighted BN loss",
        x="method",
        y="share of the BN loss (%)",
    )
    return figure.update_layout(barmode="stack")


def teacher_usage_figure(presence: pd.DataFrame) -> go.Figure:
    """Draw which networks gave their statistics to which unit, and for how many of its steps.

    Args:
        presence: The result of `tables.presence_table`.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=presence.to_numpy(),
        x=list(presence.columns),
        y=list(presence.index),
        zmin=0,
        zmax=100,
        colorscale="Blues",
        xgap=2,
        ygap=2,
        colorbar={"title": {"text": "% of steps"}},
        hovertemplate="%{y}<br>%{x}: %{z:.0f} % of the steps<extra></extra>",
    )
    height = 160 + 22 * min(len(presence), 60)
    apply_style(figure, title="Who was drawn, unit by unit", x="network", y="", height=height)
    return figure.update_yaxes(autorange="reversed").update_layout(margin={"l": 260})


_MOST_DRAWN = 40  # classes of a square of guesses
_NO_TRADE = "Not drawn: one image per class has no other to differ from, so there is no cosine"


def accuracy_figure(accuracies: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw what each student learned from each method, with the spread over seeds.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), method_styles([*titles, *accuracies["method"]])
    for method, group in accuracies.groupby("method", sort=False):
        figure.add_bar(
            x=group["student"],
            y=group["mean"],
            name=titles.get(str(method), str(method)),
            marker=looks[str(method)].fill,
            error_y={"type": "data", "array": group["std"].fillna(0), "thickness": 1.5},
            text=[f"{value:.1f}" for value in group["mean"]],
            textposition="inside",
            insidetextanchor="start",
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    apply_style(
        figure,
        title="Students trained on the distilled images alone (mean and std over seeds)",
        x="student",
        y="top-1 on held-out real images (%)",
    )
    return figure.update_layout(barmode="group")


def learning_figure(curves: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw held-out accuracy over epochs, mean and deviation over seeds, a dash per student.

    Args:
        curves: The result of `tables.learning_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), method_styles([*titles, *curves["method"]])
    students, methods = list(curves["student"].unique()), list(curves["method"].unique())
    seeds = curves.groupby(["method", "student", "epoch"], sort=False)["top1"]
    mean = seeds.agg(["mean", "std"]).fillna(0).reset_index()
    for (method, student), group in mean.groupby(["method", "student"], sort=False):
        name = f"{titles.get(str(method), method)}, {student}"
        colour = looks[str(method)].colour
        figure.add_scatter(**_band(group), fillcolor=with_alpha(colour, 0.15))
        figure.add_scatter(
            x=group["epoch"],
            y=100 * group["mean"],
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash_of(students.index(student))},
            marker={"symbol": symbol_of(methods.index(method))},
            hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
        )
    return apply_style(
        figure,
        title="Learning curves, mean and std over seeds",
        x="epoch",
        y="top-1 on held-out real images (%)",
    )


def _band(group: pd.DataFrame) -> dict[str, Any]:
    """Return a closed line around mean and deviation over the epochs."""
    upper, lower = (100 * (group["mean"] + sign * group["std"]) for sign in (1, -1))
    return {
        "x": [*group["epoch"], *group["epoch"][::-1]],
        "y": [*upper, *lower[::-1]],
        "mode": "lines",
        "fill": "toself",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def matrix_figure(accuracies: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw how far each method's images carry over to each student: a square per pair.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        titles: How each method is called.
    """
    wide = accuracies.pivot_table("mean", "method", "student", sort=False)
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=list(wide.columns),
            y=[titles.get(str(method), str(method)) for method in wide.index],
            text=wide.map(lambda value: f"{value:.1f}").to_numpy(),
            texttemplate="%{text}",
            colorscale="Viridis",
            colorbar={"title": "top-1 %"},
            hovertemplate="%{y}, %{x}: %{z:.1f} %<extra></extra>",
        )
    )
    apply_style(figure, title="Methods by students", x="student", y="images of")
    return figure.update_yaxes(autorange="reversed")


def class_figure(classes: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw each class's accuracy, a line of markers per method.

    Args:
        classes: The result of `scoreboard.class_accuracy_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), method_styles([*titles, *map(str, classes)])
    for place, (method, values) in enumerate(classes.items()):
        figure.add_scatter(
            x=[str(name) for name in classes.index],
            y=values,
            mode="lines+markers",
            name=titles.get(str(method), str(method)),
            line={"color": looks[str(method)].colour, "dash": dash_of(place)},
            marker={"symbol": symbol_of(place)},
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    apply_style(
        figure,
        title="What students know of each class (mean over students and seeds)",
        x="class",
        y="top-1 on held-out real images (%)",
    )
    return by_class(figure, len(classes))


def gain_figure(gains: pd.DataFrame, titles: dict[str, str], base: str) -> go.Figure:
    """Draw what each method gains and loses per class.

    Args:
        gains: The result of `scoreboard.gain_table`.
        titles: How each method is called.
        base: The method that the others are compared with.
    """
    figure, looks = go.Figure(), method_styles([*titles, *map(str, gains)])
    for method, values in gains.items():
        figure.add_bar(
            x=[str(name) for name in gains.index],
            y=values,
            name=titles.get(str(method), str(method)),
            marker=looks[str(method)].fill,
            hovertemplate="%{x}: %{y:+.1f} points<extra>%{fullData.name}</extra>",
        )
    apply_style(
        figure,
        title=f"Gains and losses per class, beside {titles.get(base, base)}",
        x="class",
        y="difference in top-1 (points)",
    )
    return by_class(figure, len(gains))


def confusion_figure(guesses: pd.DataFrame, *, title: str) -> go.Figure:
    """Draw what a student takes each class for; of many classes, those with most mistakes.

    Args:
        guesses: The result of `scoreboard.guess_table`; empty where nothing was recorded.
        title: Whose they are.
    """
    if not len(guesses):
        return empty_figure(f"{title}: not recorded")
    # By place, since two of ImageNet's classes may share a name.
    mistakes = np.nan_to_num(100 - np.diag(guesses))
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_DRAWN])
    names = [f"{place} {guesses.index[place]}" for place in shown]
    if len(shown) < len(guesses):
        title = f"{title}: the {len(shown)} of {len(guesses)} classes with most mistakes"
    figure = go.Figure(
        go.Heatmap(
            z=guesses.iloc[shown, shown].to_numpy(),
            x=names,
            y=names,
            zmin=0,
            zmax=100,
            colorscale="Viridis",
            colorbar={"title": "% of class"},
            hovertemplate="%{y} taken for %{x}: %{z:.1f} %<extra></extra>",
        )
    )
    apply_style(figure, title=title, x="the student's guess", y="class", height=560)
    return figure.update_yaxes(autorange="reversed")


def tradeoff_figure(trade: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw accuracy against diversity, a point per method; hover tells how much is recognised.

    Args:
        trade: The result of `scoreboard.trade_table`.
        titles: How each method is called.

    Returns:
        The figure; where no method has a cosine, an empty one that says so.
    """
    known = trade.dropna(subset=["intra-class cosine"])
    if not len(known):
        return empty_figure(_NO_TRADE)
    figure, looks = go.Figure(), method_styles([*titles, *map(str, trade.index)])
    for place, (method, row) in enumerate(known.iterrows()):
        figure.add_scatter(
            x=[row["intra-class cosine"]],
            y=[row["top-1 %"]],
            mode="markers+text",
            text=[titles.get(str(method), str(method))],
            textposition="top center",
            marker={
                "color": looks[str(method)].colour,
                "symbol": symbol_of(place),
                "size": 13,
            },
            customdata=[row["recognised %"]],
            hovertemplate="%{text}: %{y:.1f} %, cosine %{x:.3f}, recognised %{customdata:.0f} %"
            "<extra></extra>",
            showlegend=False,
        )
    return apply_style(
        figure,
        title="Accuracy against diversity (left is more diverse)",
        x="intra-class cosine, mean over classes and feature networks",
        y="top-1, mean over students (%)",
    )


PUBLISHED_COLOUR = "#B4B4B4"
_ROW = 26  # pixels per bar
_PANEL = 70  # pixels per student beside its bars
_NOTHING = "Nothing on record is published of this dataset, student and number of images per class"


def context_figure(table: pd.DataFrame) -> go.Figure:
    """Draw a run's accuracies, in the colours of its methods, beside published ones in grey.

    Args:
        table: The result of `report.context.context_table`; one panel per student. Where it is
            empty, so is the figure, and it says so. `report.context.context_caption` belongs
            below it.
    """
    if not len(table):
        return empty_figure(_NOTHING)
    looks = method_styles(table["method"][table["source"] == "this run"])
    groups = list(table.groupby("student", sort=False))
    bars = [len(group) for _, group in groups]
    height = 90 + sum(_ROW * count + _PANEL for count in bars)
    figure = make_subplots(
        rows=len(groups),
        cols=1,
        subplot_titles=[f"{name}, {_ipc(group)}" for name, group in groups],
        row_heights=[count / sum(bars) for count in bars],
        shared_xaxes="all",
        vertical_spacing=_PANEL / height if len(groups) > 1 else None,
    )
    for row, (_, group) in enumerate(groups, start=1):
        # A spread that nobody printed is left out, and not drawn as none: hence two traces.
        for known in (True, False):
            part = group[group["std"].notna() == known]
            figure.add_trace(_bars(part, looks, with_spread=known), row=row, col=1)
        figure.update_yaxes(categoryorder="array", categoryarray=group["title"], row=row, col=1)
    apply_style(
        figure,
        title="This run (coloured) beside published results (grey), each by its own protocol",
        x="",
        y="",
        height=height,
    )
    figure.update_xaxes(rangemode="tozero", showticklabels=True)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, ticksuffix=" ")
    figure.update_xaxes(title={"text": "top-1 on held-out real images (%)"}, row=len(groups), col=1)
    return figure.update_layout(barmode="overlay", showlegend=False, margin={"t": 90})


def _bars(group: pd.DataFrame, looks: dict[str, MethodStyle], *, with_spread: bool) -> go.Bar:
    own = group["source"] == "this run"
    return go.Bar(
        orientation="h",
        x=group["mean"],
        y=group["title"],
        marker={
            "color": [
                looks[str(method)].colour if mine else PUBLISHED_COLOUR
                for method, mine in zip(group["method"], own, strict=True)
            ]
        },
        error_x={"array": group["std"], "thickness": 1.5} if with_spread else None,
        text=[f"{value:.1f}" for value in group["mean"]],
        textposition="inside",
        insidetextanchor="start",
        customdata=group["source"],
        hovertemplate="%{y}: %{x:.1f} %<br>%{customdata}<extra></extra>",
    )


def _ipc(group: pd.DataFrame) -> str:
    ipc = int(group["ipc"].iloc[0])
    return f"{ipc} image{'s' * (ipc != 1)} per class"


_BETTER = {"↓": " (lower is better)", "↑": " (higher is better)", "": ""}


def diversity_figure(
    per_class: pd.DataFrame, titles: dict[str, str], measure: Metric = METRICS["cosine"]
) -> go.Figure:
    """Draw a measure of each class, a line per method beside the real images.

    Args:
        per_class: The result of `diversity_tables.diversity_per_class`, for one feature network.
        titles: How each method is called.
        measure: Which of its columns; a share is drawn in percent.
    """
    figure, factor = go.Figure(), 100 if measure.percent else 1
    looks = method_styles([*titles, *per_class["method"]])
    for place, (method, group) in enumerate(per_class.groupby("method", sort=False)):
        figure.add_scatter(
            x=group["class"],
            y=factor * group[measure.name],
            mode="lines+markers",
            name=titles.get(str(method), str(method)),
            line={"color": looks[str(method)].colour, "dash": dash_of(place)},
            marker={"symbol": symbol_of(place)},
            hovertemplate="%{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    title = measure.title[0].upper() + measure.title[1:]
    apply_style(
        figure,
        title=f"{title} of each class{_BETTER[measure.better]}",
        x="class",
        y=measure.title + (" (%)" if measure.percent else ""),
    )
    return by_class(figure, per_class["class"].nunique())
