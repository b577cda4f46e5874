"""A run beside what others have published."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.figures.palette import Look, looks_of
from prism_nb.figures.style import nothing, styled

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
        return nothing(_NOTHING)
    looks = looks_of(table["method"][table["source"] == "this run"])
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
    styled(
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


def _bars(group: pd.DataFrame, looks: dict[str, Look], *, with_spread: bool) -> go.Bar:
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
