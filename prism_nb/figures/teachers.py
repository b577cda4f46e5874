"""Figures of the teacher pool."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.style import styled

_MARKS = {
    "primary": ("star", "#4477AA"),
    "teacher": ("circle", "#228833"),
    "observer": ("diamond-open", "#777777"),
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
    styled(
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
