"""Figures of a run: teachers, losses, students, and published results.

Each draws a table of `viz.tables`, methods in the colours of a `Legend`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.viz.diagnostics import BUDGETS
from prism_nb.viz.style import (
    NETWORK_COLORS,
    Legend,
    apply_style,
    color_at,
    error_bars,
    short_names,
    style_class_axis,
)
from prism_nb.viz.tables import SHARES

TOP1 = "top-1 on held-out real images (%)"
PUBLISHED_COLOR = "#B4B4B4"
_BARS = {"error_y": "above", "error_y_minus": "below"}
_MAX_CONFUSED = 40  # classes of a confusion matrix
_MAX_NUMBERS = 15  # classes whose shares fit into the cells
_MATRIX_COLUMNS = 3


def teacher_figure(teachers: pd.DataFrame) -> go.Figure:
    """Draw accuracy against cost, a point per network (`teacher_table`)."""
    figure = px.scatter(
        teachers.reset_index(),
        x="GFLOP",
        y="accuracy %",
        color="network",
        symbol="role",
        color_discrete_sequence=NETWORK_COLORS,
        log_x=True,
    )
    return apply_style(
        figure.update_traces(marker={"size": 13}).update_xaxes(nticks=6),
        title="The pool: accuracy on held-out real images against cost",
        x="forward pass (GFLOP, log scale)",
        y="top-1 accuracy (%)",
    )


def loss_figure(losses: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw each loss term, mean over units, a dash per term (`loss_table`)."""
    mean = losses.groupby(["method", "term", "step"], sort=False, as_index=False)["value"].mean()
    figure = px.line(
        legend.rename(mean),
        x="step",
        y="value",
        line_dash="term",
        log_y=True,
        **legend.scales("color"),
    )
    return apply_style(
        figure.update_yaxes(dtick=1),
        title="Loss by term, mean over steps and units (terms unweighted)",
        x="optimisation step",
        y="loss (log scale)",
    )


def share_figure(shares: pd.DataFrame, legend: Legend, networks: Sequence[str]) -> go.Figure:
    """Draw each network's share of the gradient and of the BN loss by method (`share_table`).

    Args:
        shares: The table.
        legend: Titles of the methods.
        networks: The pool, whose order gives the colours.
    """
    names, methods = short_names(networks), list(shares["method"].unique())
    named = shares.assign(of=shares["of"].map(SHARES), network=shares["network"].map(names))
    figure = px.bar(
        legend.rename(named),
        x="share %",
        y="method",
        color="network",
        pattern_shape="term",
        pattern_shape_map={"bn": "", "logit": "/"},
        facet_col="of",
        facet_col_spacing=0.06,
        text_auto=".0f",
        color_discrete_map={name: color_at(i) for i, name in enumerate(names.values())},
        category_orders={
            "network": list(names.values()),
            "term": ["bn", "logit"],
            "of": list(SHARES.values()),
            "method": [legend.titles[method] for method in methods],
        },
        orientation="h",
    )
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.for_each_trace(_name_term)
    figure.update_traces(
        textangle=0,
        insidetextanchor="middle",
        marker={"pattern": {"fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.45}},
    )
    figure.update_xaxes(title="share (%)", range=[0, 100], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(range=[-0.5, len(methods) - 0.5])
    apply_style(
        figure,
        title="Which network pulls the images (hatched: by its logits)",
        x="share (%)",
        y="",
        height=180 + 42 * len(methods),
    )
    return figure.update_layout(
        bargap=0.3,
        uniformtext={"minsize": 10, "mode": "hide"},  # no numbers where they do not fit
        legend={"orientation": "h", "yref": "container", "y": 0.02, "yanchor": "bottom"},
        margin={"b": 105},
    )


def _name_term(bar: go.Bar) -> None:
    network, _, term = bar.name.partition(", ")
    bar.name = f"{network}, logits" if term == "logit" else network


def teacher_usage_figure(usage: pd.DataFrame) -> go.Figure:
    """Draw in which share of draws each network was a BN teacher (`bn_teacher_usage_table`)."""
    figure = px.imshow(
        usage,
        zmin=0,
        zmax=100,
        color_continuous_scale="Viridis",
        aspect="auto",
        labels={"color": "% of draws"},
    )
    height = 160 + 22 * min(len(usage), 60)
    return apply_style(figure, title="BN teachers of each unit", x="network", y="", height=height)


def _with_bars(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the lengths of the error bars of `mean` and `std`, for `_BARS`."""
    return table.join(error_bars(table["mean"], table["std"]))


def accuracy_figure(accuracies: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw each student's accuracy, mean and deviation over seeds (`accuracy_table`)."""
    figure = px.bar(
        legend.rename(_with_bars(accuracies)),
        x="student",
        y="mean",
        **_BARS,
        barmode="group",
        text_auto=".1f",
        **legend.scales("color"),
    )
    figure.update_traces(textposition="inside", insidetextanchor="start")
    students = accuracies["student"].nunique()
    figure.update_xaxes(
        range=[-0.5, 1.2 * students - 0.5]
    )  # the label of chance is beside the bars
    title = "Students trained on the distilled images alone (mean and std over seeds)"
    return apply_style(figure, title=title, x="student", y=TOP1)


def learning_figure(curves: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw accuracy over epochs, mean and deviation over seeds (`learning_table`)."""
    seeds = curves.groupby(["method", "student", "epoch"], sort=False)["top1"]
    mean = (100 * seeds.agg(["mean", "std"])).reset_index()
    figure = px.line(
        legend.rename(_with_bars(mean)),
        x="epoch",
        y="mean",
        **_BARS,
        line_dash="student",
        **legend.scales("color", "symbol"),
    )
    return apply_style(figure, title="Learning curves, mean and std over seeds", x="epoch", y=TOP1)


def budget_figure(curves: pd.DataFrame, legend: Legend, *, dash: str) -> go.Figure:
    """Draw accuracy against `BUDGETS`, a dash per student or scenario (`budget_result`)."""
    long = curves.melt(["method", dash, "top-1 %"], BUDGETS, "budget", "spent")
    figure = px.line(
        legend.rename(long[long["spent"] > 0]),  # hard labels take no label passes
        x="spent",
        y="top-1 %",
        facet_col="budget",
        facet_col_spacing=0.06,
        line_dash=dash,
        markers=True,
        log_x=True,
        render_mode="svg",
        **legend.scales("color"),
    )
    figure.for_each_annotation(lambda note: note.update(text=""))
    apply_style(figure, title="Accuracy against what students were trained on", x="", y=TOP1)
    for column, title in enumerate(BUDGETS, 1):
        figure.update_xaxes(matches=None, nticks=6, title=f"{title} (log scale)", col=column)
    return figure


def transfer_figure(accuracies: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw the accuracy of each student on each method's images (`accuracy_table`)."""
    wide = legend.rename(accuracies).pivot_table("mean", "method", "student", sort=False)
    figure = px.imshow(
        wide,
        text_auto=".1f",
        aspect="auto",
        color_continuous_scale="Viridis",
        labels={"color": "top-1 %"},
    )
    return apply_style(figure, title="Methods by students", x="student", y="images of")


def class_accuracy_figure(classes: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw each class's accuracy, a mark per method (`class_accuracy_table`)."""
    scales = legend.scales("color", "symbol")
    figure = px.scatter(_by_class(classes, legend), x="class", y="value", **scales)
    figure.update_traces(marker={"size": 10})
    title = "Accuracy of each class (mean over students and seeds)"
    return style_class_axis(apply_style(figure, title=title, x="class", y=TOP1), len(classes))


def class_gain_figure(gains: pd.DataFrame, legend: Legend, baseline: str) -> go.Figure:
    """Draw each method's difference to a baseline, class by class (`class_gain_table`)."""
    scales = legend.scales("color")
    figure = px.bar(_by_class(gains, legend), x="class", y="value", barmode="group", **scales)
    title = f"Gain over {legend.titles[baseline]}, class by class"
    apply_style(figure, title=title, x="class", y="difference in top-1 (points)")
    return style_class_axis(figure, len(gains))


def _by_class(table: pd.DataFrame, legend: Legend) -> pd.DataFrame:
    return legend.rename(table.reset_index().melt("class", var_name="method"))


def confusion_figure(matrices: Mapping[str, pd.DataFrame], *, title: str) -> go.Figure:
    """Draw `confusion_matrix` of methods by title; of many classes, those with most mistakes."""
    shares = next(iter(matrices.values()))
    mistakes = sum(np.nan_to_num(100 - np.diag(matrix)) for matrix in matrices.values())
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MAX_CONFUSED])
    if len(shown) < len(shares):
        title = f"{title}: the {len(shown)} of {len(shares)} classes with most mistakes"
    columns = min(_MATRIX_COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=list(matrices),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / rows,
    )
    for index, matrix in enumerate(matrices.values()):
        part = matrix.iloc[shown, shown]
        heat = go.Heatmap(z=part, x=part.columns, y=part.index, coloraxis="coloraxis")
        heat.hovertemplate = "%{y}, taken for %{x}: %{z:.1f} %<extra></extra>"
        if len(shown) <= _MAX_NUMBERS:
            heat.update(text=part.map(_share_text), texttemplate="%{text}", textfont={"size": 9})
        figure.add_trace(heat, row=index // columns + 1, col=index % columns + 1)
    scale = {"colorscale": "Viridis", "cmin": 0, "cmax": 100, "colorbar": {"title": "% of class"}}
    apply_style(figure, title=title, x="", y="", height=130 + rows * 360)
    return figure.update_layout(coloraxis=scale).update_yaxes(autorange="reversed", showgrid=False)


def _share_text(share: float) -> str:
    return f"{share:.0f}" if share >= 1 else ""


def tradeoff_figure(tradeoff: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw accuracy against diversity, fidelity on hover (`tradeoff_table`)."""
    figure = px.scatter(
        legend.rename(tradeoff.dropna(subset=["intra-class cosine"]).reset_index()),
        x="intra-class cosine",
        y="top-1 %",
        hover_data=["recognised %"],
        **legend.scales("color", "symbol"),
    )
    return apply_style(
        figure.update_traces(marker={"size": 13}),
        title="Accuracy against diversity (left is more diverse)",
        x="mean intra-class cosine",
        y="top-1, mean over students (%)",
    )


def published_figure(table: pd.DataFrame, legend: Legend) -> go.Figure:
    """Draw a run's accuracies and, in grey, published ones, by student (`published_table`)."""
    colours = {title: legend.color(method) for method, title in legend.titles.items()}
    figure = px.bar(
        table.assign(shown=table["title"].where(table["source"] == "this run", "published")),
        x="mean",
        y="title",
        error_x="std",
        color="shown",
        color_discrete_map={**colours, "published": PUBLISHED_COLOR},
        facet_row="student",
        hover_data=["label teachers", "source"],
        text_auto=".1f",
        orientation="h",
    )
    figure.update_traces(textposition="inside", insidetextanchor="start")
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.update_yaxes(autorange="reversed", matches=None, title="", showgrid=False)
    title = "This run (coloured) and published results (grey), each by its own protocol"
    students = table["student"].nunique()
    height = 120 + students * (70 + 26 * int(table["student"].value_counts().max()))
    apply_style(figure, title=title, x=TOP1, y="", height=height)
    return figure.update_layout(showlegend=False)
