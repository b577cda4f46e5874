"""Figures of the evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.palette import dash_of, faded, looks_of, symbol_of
from prism_nb.figures.style import by_class, nothing, styled

_MOST_DRAWN = 40  # classes of a square of guesses
_NO_TRADE = "Not drawn: one image per class has no other to differ from, so there is no cosine"


def accuracy_figure(accuracies: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw what each student learned from each method, with the spread over seeds.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), looks_of([*titles, *accuracies["method"]])
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
    styled(
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
    figure, looks = go.Figure(), looks_of([*titles, *curves["method"]])
    students, methods = list(curves["student"].unique()), list(curves["method"].unique())
    seeds = curves.groupby(["method", "student", "epoch"], sort=False)["top1"]
    mean = seeds.agg(["mean", "std"]).fillna(0).reset_index()
    for (method, student), group in mean.groupby(["method", "student"], sort=False):
        name = f"{titles.get(str(method), method)}, {student}"
        colour = looks[str(method)].colour
        figure.add_scatter(**_band(group), fillcolor=faded(colour, 0.15))
        figure.add_scatter(
            x=group["epoch"],
            y=100 * group["mean"],
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash_of(students.index(student))},
            marker={"symbol": symbol_of(methods.index(method))},
            hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
        )
    return styled(
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
    styled(figure, title="Methods by students", x="student", y="images of")
    return figure.update_yaxes(autorange="reversed")


def class_figure(classes: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw each class's accuracy, a line of markers per method.

    Args:
        classes: The result of `scoreboard.class_accuracy_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), looks_of([*titles, *map(str, classes)])
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
    styled(
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
    figure, looks = go.Figure(), looks_of([*titles, *map(str, gains)])
    for method, values in gains.items():
        figure.add_bar(
            x=[str(name) for name in gains.index],
            y=values,
            name=titles.get(str(method), str(method)),
            marker=looks[str(method)].fill,
            hovertemplate="%{x}: %{y:+.1f} points<extra>%{fullData.name}</extra>",
        )
    styled(
        figure,
        title=f"Gains and losses per class, beside {titles.get(base, base)}",
        x="class",
        y="difference in top-1 (points)",
    )
    return by_class(figure, len(gains))


def guess_figure(guesses: pd.DataFrame, *, title: str) -> go.Figure:
    """Draw what a student takes each class for; of many classes, those with most mistakes.

    Args:
        guesses: The result of `scoreboard.guess_table`; empty where nothing was recorded.
        title: Whose they are.
    """
    if not len(guesses):
        return nothing(f"{title}: not recorded")
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
    styled(figure, title=title, x="the student's guess", y="class", height=560)
    return figure.update_yaxes(autorange="reversed")


def trade_figure(trade: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw accuracy against diversity, a point per method; hover tells how much is recognised.

    Args:
        trade: The result of `scoreboard.trade_table`.
        titles: How each method is called.

    Returns:
        The figure; where no method has a cosine, an empty one that says so.
    """
    known = trade.dropna(subset=["intra-class cosine"])
    if not len(known):
        return nothing(_NO_TRADE)
    figure, looks = go.Figure(), looks_of([*titles, *map(str, trade.index)])
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
    return styled(
        figure,
        title="Accuracy against diversity (left is more diverse)",
        x="intra-class cosine, mean over classes and feature networks",
        y="top-1, mean over students (%)",
    )
