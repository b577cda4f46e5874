"""Figures of the synthesis: how each named loss term falls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.palette import colour_at, dash_of, faded, looks_of, pattern_of
from prism_nb.figures.style import styled


def loss_figure(losses: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw the mean over units of each term, one colour per method, one dash per term.

    Args:
        losses: The result of `tables.loss_table`.
        titles: How each method is called.
    """
    figure, looks = go.Figure(), looks_of([*titles, *losses["method"]])
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
                "color": faded(looks[str(method)].colour, 0.9),
                "dash": dash_of(terms.index(term)),
            },
            hovertemplate=f"{name}<br>step %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    styled(
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
    styled(
        figure,
        title="Who steers the statistics: share of the weighted BN loss",
        x="method",
        y="share of the BN loss (%)",
    )
    return figure.update_layout(barmode="stack")


def presence_figure(presence: pd.DataFrame) -> go.Figure:
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
    styled(figure, title="Who was drawn, unit by unit", x="network", y="", height=height)
    return figure.update_yaxes(autorange="reversed").update_layout(margin={"l": 260})
