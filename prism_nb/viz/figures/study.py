"""Figures of a study: accuracy with intervals, pairs, diversity and cost, a panel per scenario.

`summary`, `pairs` and `images` are results of `summarize`, `compare_pairs` and `image_records` of
`viz.study_report`, `sets` of `viz.diagnostics.set_losses`; `scenarios` are titles by name, in the
study's order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from prism_nb.core.settings import REFERENCE
from prism_nb.core.text import DASH
from prism_nb.viz.style import NETWORK_COLORS, SYMBOLS, TEXT_COLOR, Legend, apply_style

_STUDENT_MARKS = ("line-ns-open", "x-thin-open", "asterisk-open", "y-up-open", "hash-open")
_NOT_STUDENTS = ["scenario", "method", "mean", "low", "high", "std", "replicates"]
Titles = Mapping[str, str]


def accuracy_facets(summary: pd.DataFrame, legend: Legend, scenarios: Titles) -> go.Figure:
    """Draw each scenario's methods with their 95 % intervals, and each student as a small mark."""
    table = _with_titles(summary, legend, scenarios)
    means = table.assign(above=table["high"] - table["mean"], below=table["mean"] - table["low"])
    scales = legend.scales("color")
    scales["category_orders"]["scenario"] = [
        title for title in scenarios.values() if title in set(table["scenario"])
    ]
    panels = {"y": "method", "facet_col": "scenario", "facet_col_wrap": 3}
    figure = px.scatter(means, x="mean", error_x="above", error_x_minus="below", **panels, **scales)
    figure.update_traces(marker={"size": 11}, showlegend=False)
    students = table.melt(_NOT_STUDENTS, var_name="student", value_name="top-1 %")
    marks = px.scatter(
        students,
        x="top-1 %",
        symbol="student",
        symbol_sequence=_STUDENT_MARKS,
        color_discrete_sequence=[TEXT_COLOR],
        category_orders=scales["category_orders"],
        **panels,
    )
    marks.update_traces(marker={"size": 8, "line": {"width": 1.5, "color": TEXT_COLOR}})
    figure.add_traces(marks.data)
    figure.for_each_annotation(lambda note: note.update(text=note.text.partition("=")[2]))
    figure.update_xaxes(title="top-1 %").update_yaxes(title="")
    rows = -(-table["scenario"].nunique() // 3)
    title = "Top-1 on held-out real images (%), mean over students with its 95 % interval"
    height = rows * (120 + 22 * table["method"].nunique()) + 90
    apply_style(figure, title=title, x="top-1 %", y="", height=height)
    return figure.update_layout(margin={"l": 150, "t": 90})


def pair_facets(pairs: pd.DataFrame, legend: Legend, scenarios: Titles) -> go.Figure:
    """Draw all differences: row minus column in points, ● where significant."""
    shown = [name for name in scenarios if name in set(pairs["scenario"])]
    methods = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    differences = np.full((len(shown), len(methods), len(methods)), np.nan)
    text = np.full(differences.shape, "", dtype=object)
    for pair in pairs.itertuples(index=False):
        mark = "" if pair.winner == "none" else " ●"
        for a, b, sign in ((pair.a, pair.b, 1), (pair.b, pair.a, -1)):
            cell = shown.index(pair.scenario), methods.index(a), methods.index(b)
            differences[cell] = sign * pair.difference
            text[cell] = f"{sign * pair.difference:+.1f}{mark}"
    limit = float(np.nanmax(np.abs(differences)))
    titles = [legend.titles[method] for method in methods]
    figure = px.imshow(
        differences,
        x=titles,
        y=titles,
        facet_col=0,
        facet_col_wrap=2,
        facet_row_spacing=0.2,
        facet_col_spacing=0.16,
        zmin=-limit,
        zmax=limit,
        color_continuous_scale="RdBu",
        aspect="auto",
        labels={"color": "points"},
    )
    for panel in figure.data:
        panel.update(text=text[int(panel.name)], texttemplate="%{text}", textfont={"size": 11})
    order = iter(scenarios[name] for name in shown)
    figure.for_each_annotation(lambda note: note.update(text=next(order)))
    figure.update_xaxes(showticklabels=True, matches=None)
    figure.update_yaxes(showticklabels=True, matches=None, autorange="reversed")
    title = "Row minus column, points of accuracy; ● is significant (paired t, Holm, 5 %)"
    height = -(-len(shown) // 2) * (170 + 30 * len(methods)) + 40
    apply_style(figure, title=title, x="", y="", height=height)
    return figure.update_layout(margin={"l": 140, "t": 90}, coloraxis={"showscale": False})


def fidelity_figure(images: pd.DataFrame, legend: Legend, scenarios: Titles) -> go.Figure:
    """Draw diversity against fidelity, a colour per method and a symbol per scenario."""
    mean = images.groupby(["scenario", "method"], sort=False).mean(numeric_only=True).reset_index()
    mean = mean.dropna(subset=["cosine"])  # undefined at one image per class
    real = mean.groupby("scenario", sort=False).first().reset_index().assign(method=REFERENCE)
    real[["cosine", "recognised %"]] = real[["real cosine", "real recognised %"]]
    figure = px.scatter(
        _with_titles(pd.concat([mean, real]), legend, scenarios),
        x="recognised %",
        y="cosine",
        symbol="scenario",
        symbol_sequence=SYMBOLS,
        **legend.scales("color"),
    )
    return apply_style(
        figure.update_traces(marker={"size": 11}),
        title="Diversity and fidelity",
        x="recognised by the feature networks (%)",
        y="intra-class cosine (lower is more diverse)",
    )


def loss_facets(
    sets: pd.DataFrame, dcs: pd.DataFrame, legend: Legend, scenarios: Titles
) -> go.Figure:
    """Draw each method's sets by own loss and test loss (`set_losses`, `dcs_table`)."""
    numbers = [f"DCS {row.DCS:.2f}, n = {row.sets}" for row in dcs.itertuples()]
    titles = dict(zip(legend.rename(dcs)["method"], numbers, strict=True))
    figure = px.scatter(
        _with_titles(sets, legend, scenarios),
        x="own loss",
        y="test loss",
        facet_col="method",
        facet_col_wrap=3,
        facet_row_spacing=0.12,
        color="scenario",
        symbol="scenario",
        symbol_sequence=SYMBOLS,
        color_discrete_sequence=NETWORK_COLORS,
    )
    for panel in figure.layout.annotations:
        method = panel.text.partition("=")[2]
        panel.text = f"{method}: {titles[method].replace('nan', DASH)}"
    figure.update_traces(marker={"size": 9}).update_xaxes(matches=None, showticklabels=True)
    title = "Each set: the method's own loss and its students' test loss (nats)"
    height = 160 + 240 * -(-sets["method"].nunique() // 3)
    apply_style(figure, title=title, x="own loss", y="test loss", height=height)
    return figure.update_layout(margin={"t": 90})


def cost_figure(
    images: pd.DataFrame, summary: pd.DataFrame, legend: Legend, scenarios: Titles
) -> go.Figure:
    """Draw accuracy against seconds of synthesis per image."""
    keys = ["scenario", "method"]
    cost = images.groupby(keys, sort=False)["seconds per image"].mean().reset_index()
    figure = px.scatter(
        _with_titles(summary.merge(cost, on=keys), legend, scenarios),
        x="seconds per image",
        y="mean",
        symbol="scenario",
        symbol_sequence=SYMBOLS,
        log_x=True,
        **legend.scales("color"),
    )
    return apply_style(
        figure.update_traces(marker={"size": 11}).update_xaxes(dtick=1),
        title="Accuracy against cost",
        x="seconds of synthesis per image (log scale)",
        y="top-1, mean over students (%)",
    )


def _with_titles(table: pd.DataFrame, legend: Legend, scenarios: Titles) -> pd.DataFrame:
    """Return a table with titles of methods and scenarios."""
    return legend.rename(table).assign(scenario=table["scenario"].map(scenarios))
