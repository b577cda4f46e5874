"""Figures of the diversity stage."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from prism_nb.diversity.catalogue import MEASURES, Measure
from prism_nb.figures.palette import dash_of, looks_of, symbol_of
from prism_nb.figures.style import by_class, styled

_BETTER = {"↓": " (lower is better)", "↑": " (higher is better)", "": ""}


def diversity_figure(
    per_class: pd.DataFrame, titles: dict[str, str], measure: Measure = MEASURES["cosine"]
) -> go.Figure:
    """Draw a measure of each class, a line per method beside the real images.

    Args:
        per_class: The result of `diversity_tables.diversity_per_class`, for one feature network.
        titles: How each method is called.
        measure: Which of its columns; a share is drawn in percent.
    """
    figure, factor = go.Figure(), 100 if measure.percent else 1
    looks = looks_of([*titles, *per_class["method"]])
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
    styled(
        figure,
        title=f"{title} of each class{_BETTER[measure.better]}",
        x="class",
        y=measure.title + (" (%)" if measure.percent else ""),
    )
    return by_class(figure, per_class["class"].nunique())
