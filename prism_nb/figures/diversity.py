"""Figures of the diversity stage."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.style import colour_of, dash_of, styled


def diversity_figure(per_class: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw each class's intra-class cosine similarity, a line per method beside the real images.

    Args:
        per_class: The result of `tables.diversity_per_class`, for one feature network.
        titles: How each method is called.
    """
    figure = go.Figure()
    for place, (method, group) in enumerate(per_class.groupby("method", sort=False)):
        figure.add_scatter(
            x=group["class"],
            y=group["cosine"],
            mode="lines+markers",
            name=titles.get(str(method), str(method)),
            line={"color": colour_of(str(method)), "dash": dash_of(place)},
            hovertemplate="%{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    return styled(
        figure,
        title="Similarity of the images of one class (lower is more diverse)",
        x="class",
        y="mean pairwise cosine similarity",
    )
