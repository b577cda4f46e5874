"""Figures of a run: teachers, losses, students, and published results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from prism_nb.viz.style import (
    Legend,
    apply_style,
    colour_at,
    dash_of,
    pattern_of,
    style_class_axis,
)

_ROLES = {
    "primary": ("star", colour_at(0)),
    "teacher": ("circle", colour_at(2)),
    "holdout": ("diamond-open", colour_at(3)),
}
TOP1 = "top-1 on held-out real images (%)"
_MAX_CONFUSED = 40  # classes of a confusion matrix
PUBLISHED_COLOUR = "#B4B4B4"


def teacher_figure(teachers: pd.DataFrame) -> go.Figure:
    """Draw accuracy against cost, a point per network.

    Args:
        teachers: The result of `tables.teacher_table`.
    """
    figure = go.Figure()
    for role, group in teachers.groupby("role", sort=False):
        symbol, colour = _ROLES[str(role)]
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
    logs = np.log10(teachers["MFLOPs"])
    room = [logs.min() - 0.15, logs.max() + 0.15]  # for the names at both ends
    return figure.update_xaxes(type="log", nticks=6, range=room)


def loss_figure(losses: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw the mean over units of each loss term, one colour per method, one dash per term.

    Args:
        losses: The result of `tables.loss_table`.
        legend: The run's methods.
    """
    figure = go.Figure()
    terms = sorted(losses["term"].unique(), reverse=True)
    mean = losses.groupby(["method", "term", "step"], sort=False)["value"].mean().reset_index()
    for (method, term), curve in mean.groupby(["method", "term"], sort=False):
        name = f"{legend.titles[method]}: {term}"
        figure.add_scatter(
            x=curve["step"],
            y=curve["value"],
            mode="lines",
            name=name,
            line={"color": legend.colour(method), "dash": dash_of(terms.index(term))},
            hovertemplate=f"{name}<br>step %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    apply_style(
        figure,
        title="Loss by term, mean over steps and units (terms unweighted)",
        x="optimisation step",
        y="loss (log scale)",
    )
    return figure.update_yaxes(type="log")


def bn_share_figure(shares: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw each network's share of each method's BN loss, as stacked bars.

    Args:
        shares: The result of `tables.bn_loss_share_table`.
        legend: The run's methods.
    """
    figure = go.Figure()
    for index, (network, group) in enumerate(shares.groupby("network", sort=False)):
        figure.add_bar(
            x=[legend.titles[method] for method in group["method"]],
            y=group["share %"],
            name=str(network),
            marker={"color": colour_at(index), "pattern": {"shape": pattern_of(index)}},
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    apply_style(
        figure,
        title="Share of each network in the weighted BN loss",
        x="method",
        y="share of the BN loss (%)",
    )
    return figure.update_layout(barmode="stack")


def teacher_usage_figure(usage: pd.DataFrame) -> go.Figure:
    """Draw for how many steps of each unit each network gave its BN statistics.

    Args:
        usage: The result of `tables.bn_teacher_usage_table`.
    """
    figure = go.Figure(
        go.Heatmap(
            z=usage.to_numpy(),
            x=list(usage.columns),
            y=list(usage.index),
            zmin=0,
            zmax=100,
            colorscale="Blues",
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "% of steps"}},
            hovertemplate="%{y}<br>%{x}: %{z:.0f} % of the steps<extra></extra>",
        )
    )
    height = 160 + 22 * min(len(usage), 60)
    apply_style(figure, title="BN teachers of each unit", x="network", y="", height=height)
    return figure.update_yaxes(autorange="reversed").update_layout(margin={"l": 260})


def accuracy_figure(accuracies: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw each student's accuracy by method, with the standard deviation over seeds.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        legend: The run's methods.
    """
    figure = go.Figure()
    for method, group in accuracies.groupby("method", sort=False):
        figure.add_bar(
            x=group["student"],
            y=group["mean"],
            name=legend.titles[str(method)],
            marker=legend.bar(str(method)),
            error_y={"type": "data", "array": group["std"].fillna(0), "thickness": 1.5},
            text=[f"{value:.1f}" for value in group["mean"]],
            textposition="inside",
            insidetextanchor="start",
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    title = "Students trained on the distilled images alone (mean and std over seeds)"
    apply_style(figure, title=title, x="student", y=TOP1)
    return figure.update_layout(barmode="group")


def learning_figure(curves: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw held-out accuracy over epochs, mean and deviation over seeds, a dash per student.

    Args:
        curves: The result of `tables.learning_table`.
        legend: The run's methods.
    """
    figure, students = go.Figure(), list(curves["student"].unique())
    seeds = curves.groupby(["method", "student", "epoch"], sort=False)["top1"]
    mean = (100 * seeds.agg(["mean", "std"]).fillna(0)).reset_index()
    for (method, student), group in mean.groupby(["method", "student"], sort=False):
        name, colour = f"{legend.titles[method]}, {student}", legend.colour(method)
        upper, lower = group["mean"] + group["std"], group["mean"] - group["std"]
        figure.add_scatter(
            x=[*group["epoch"], *group["epoch"][::-1]],
            y=[*upper, *lower[::-1]],
            mode="lines",
            fill="toself",
            fillcolor=f"rgba{(*hex_to_rgb(colour), 0.15)}",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=group["epoch"],
            y=group["mean"],
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash_of(students.index(student))},
            marker={"symbol": legend.symbol(method)},
            hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
        )
    return apply_style(figure, title="Learning curves, mean and std over seeds", x="epoch", y=TOP1)


def transfer_figure(accuracies: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw the accuracy of each student on each method's images, as a matrix.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        legend: The run's methods.
    """
    wide = accuracies.pivot_table("mean", "method", "student", sort=False)
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=list(wide.columns),
            y=[legend.titles[method] for method in wide.index],
            texttemplate="%{z:.1f}",
            colorscale="Viridis",
            colorbar={"title": {"text": "top-1 %"}},
            hovertemplate="%{y}, %{x}: %{z:.1f} %<extra></extra>",
        )
    )
    apply_style(figure, title="Methods by students", x="student", y="images of")
    return figure.update_yaxes(autorange="reversed")


def class_accuracy_figure(classes: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw each class's accuracy, a line per method.

    Args:
        classes: The result of `tables.class_accuracy_table`.
        legend: The run's methods.
    """
    figure = go.Figure()
    for method, values in classes.items():
        figure.add_scatter(
            x=[str(name) for name in classes.index],
            y=values,
            mode="lines+markers",
            name=legend.titles[str(method)],
            line=legend.line(str(method)),
            marker={"symbol": legend.symbol(str(method))},
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    title = "Accuracy of each class (mean over students and seeds)"
    return style_class_axis(apply_style(figure, title=title, x="class", y=TOP1), len(classes))


def class_gain_figure(gains: pd.DataFrame, legend: Legend, baseline: str) -> go.Figure:
    """Draw each method's difference to a baseline, class by class.

    Args:
        gains: The result of `tables.class_gain_table`.
        legend: The run's methods.
        baseline: The method that the others are compared with.
    """
    figure = go.Figure()
    for method, values in gains.items():
        figure.add_bar(
            x=[str(name) for name in gains.index],
            y=values,
            name=legend.titles[str(method)],
            marker=legend.bar(str(method)),
            hovertemplate="%{x}: %{y:+.1f} points<extra>%{fullData.name}</extra>",
        )
    title = f"Gain over {legend.titles[baseline]}, class by class"
    apply_style(figure, title=title, x="class", y="difference in top-1 (points)")
    return style_class_axis(figure, len(gains))


def confusion_figure(shares: pd.DataFrame, *, title: str) -> go.Figure:
    """Draw a confusion matrix; of many classes, those with most mistakes.

    Args:
        shares: The result of `tables.confusion_matrix`.
        title: The figure's title.
    """
    mistakes = np.nan_to_num(100 - np.diag(shares))
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MAX_CONFUSED])
    names = [f"{index} {shares.index[index]}" for index in shown]  # ImageNet has two cranes
    if len(shown) < len(shares):
        title = f"{title}: the {len(shown)} of {len(shares)} classes with most mistakes"
    figure = go.Figure(
        go.Heatmap(
            z=shares.iloc[shown, shown].to_numpy(),
            x=names,
            y=names,
            zmin=0,
            zmax=100,
            colorscale="Viridis",
            colorbar={"title": {"text": "% of class"}},
            hovertemplate="%{y} taken for %{x}: %{z:.1f} %<extra></extra>",
        )
    )
    apply_style(figure, title=title, x="predicted class", y="class", height=560)
    return figure.update_yaxes(autorange="reversed")


def tradeoff_figure(tradeoff: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw accuracy against diversity, a point per method; fidelity is on hover.

    Args:
        tradeoff: The result of `tables.tradeoff_table`.
        legend: The run's methods.
    """
    figure = go.Figure()
    for method, row in tradeoff.dropna(subset=["intra-class cosine"]).iterrows():
        figure.add_scatter(
            x=[row["intra-class cosine"]],
            y=[row["top-1 %"]],
            mode="markers+text",
            text=[legend.titles[str(method)]],
            textposition="top center",
            marker={
                "color": legend.colour(str(method)),
                "symbol": legend.symbol(str(method)),
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


def published_figure(table: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw a run's accuracies in its methods' colours and published ones in grey.

    Args:
        table: The result of `tables.published_table`; a panel per student.
        legend: The run's methods.
    """
    groups = list(table.groupby("student", sort=False))
    height = 90 + sum(26 * len(group) + 70 for _, group in groups)
    figure = make_subplots(
        rows=len(groups),
        cols=1,
        subplot_titles=[f"{student}, IPC {group['ipc'].iloc[0]}" for student, group in groups],
        row_heights=[len(group) / len(table) for _, group in groups],
        shared_xaxes="all",
        vertical_spacing=70 / height if len(groups) > 1 else None,
    )
    for row, (_, group) in enumerate(groups, start=1):
        # Where no spread was published, none is drawn rather than one of 0: hence two traces.
        for part in (group[group["std"].notna()], group[group["std"].isna()]):
            figure.add_trace(_published_bars(part, legend), row=row, col=1)
        figure.update_yaxes(categoryorder="array", categoryarray=group["title"], row=row, col=1)
    title = "This run (coloured) and published results (grey), each by its own protocol"
    apply_style(figure, title=title, x="", y="", height=height)
    figure.update_xaxes(rangemode="tozero", showticklabels=True)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, ticksuffix=" ")
    figure.update_xaxes(title={"text": TOP1}, row=len(groups), col=1)
    return figure.update_layout(barmode="overlay", showlegend=False, margin={"t": 90})


def _published_bars(group: pd.DataFrame, legend: Legend) -> go.Bar:
    spread: dict[str, Any] = {"array": group["std"], "thickness": 1.5}
    return go.Bar(
        orientation="h",
        x=group["mean"],
        y=group["title"],
        marker={
            "color": [
                legend.colour(method) if source == "this run" else PUBLISHED_COLOUR
                for method, source in zip(group["method"], group["source"], strict=True)
            ]
        },
        error_x=None if group["std"].isna().all() else spread,
        text=[f"{value:.1f}" for value in group["mean"]],
        textposition="inside",
        insidetextanchor="start",
        customdata=group["source"],
        hovertemplate="%{y}: %{x:.1f} %<br>%{customdata}<extra></extra>",
    )
