"""Figures of the teacher pool."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.palette import colour_at
from prism_nb.figures.style import styled

_MARKS = {
    "primary": ("star", colour_at(0)),
    "teacher": ("circle", colour_at(2)),
    "observer": ("diamond-open", colour_at(3)),
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
