"""Who resembles whom within a class: cosine similarities of all pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prism_nb.figures.cloud import Cloud
from prism_nb.figures.style import styled

_COLUMNS = 3
_SQUARE = 270  # pixels per matrix


def similarity_matrices(points: Cloud) -> dict[str, np.ndarray]:
    """Return z_i . z_j of all pairs of each method's images, float64 [n, n] by method."""
    groups = points.table.groupby("method", sort=False)
    matrices = {}
    for method, group in groups:
        z = points.features[group.index.to_list()].numpy()
        matrices[str(method)] = z @ z.T
    return matrices


def similarity_figure(points: Cloud, titles: dict[str, str], title: str) -> go.Figure:
    """Draw a matrix per method, all in one scale of colours.

    Args:
        points: Images of one class.
        titles: How each method is called.
        title: The figure's.
    """
    matrices = similarity_matrices(points)
    columns = min(_COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    heads = [titles.get(method, method) for method in matrices]
    figure = make_subplots(
        rows, columns, subplot_titles=heads, horizontal_spacing=0.08, vertical_spacing=0.34 / rows
    )
    for place, (method, matrix) in enumerate(matrices.items()):
        members = points.table.index[points.table["method"] == method].to_numpy()
        slots = points.table.loc[members, "slot"].astype(str)
        row, column = divmod(place, columns)
        figure.add_trace(_heat(matrix, slots, members), row=row + 1, col=column + 1)
        name = {"text": "slot"}
        figure.update_xaxes(title=name, row=row + 1, col=column + 1)
        if column == 0:  # beside the others it would stand on their neighbours
            figure.update_yaxes(title=name, row=row + 1, col=1)
    styled(figure, title=title, x="slot", y="slot", height=130 + rows * _SQUARE)
    low = min(0.0, *(float(np.nanmin(matrix)) for matrix in matrices.values()))
    bar = {"title": {"text": "cosine"}}
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": low, "cmax": 1, "colorbar": bar}
    )
    # Slots are names, which plotly would take for numbers and put halves between.
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return figure.update_xaxes(showgrid=False, type="category")


def similarity_table(points: Cloud, titles: dict[str, str]) -> pd.DataFrame:
    """Return, per method, the images and the mean, least and largest cosine of two of them."""
    rows = {}
    for method, matrix in similarity_matrices(points).items():
        pairs = pd.Series(matrix[np.triu_indices(len(matrix), 1)], dtype=float)  # none: NaN
        values = {"mean": pairs.mean(), "least": pairs.min(), "largest": pairs.max()}
        rows[titles.get(method, method)] = {"images": len(matrix), **values}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _heat(matrix: np.ndarray, slots: pd.Series, members: np.ndarray) -> go.Heatmap:
    pairs = np.stack(np.meshgrid(members, members, indexing="ij"), axis=-1)
    return go.Heatmap(
        z=matrix,
        x=slots,
        y=slots,
        coloraxis="coloraxis",
        customdata=pairs.tolist(),
        hovertemplate="slots %{y} and %{x}: %{z:.3f}<extra></extra>",
    )
