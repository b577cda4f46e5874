"""Figures of a walk through the method on one image: its gradients, and its growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor
from torch.nn import functional

from prism_nb.synthesis.walkthrough import VARIANTS, Frame
from prism_nb.viz.html import encode_image, thumbnails
from prism_nb.viz.style import apply_style

_MAX_SIDE = 64  # pixels of a gradient, and twice that of an image
_SIGNED = [[0, "#2166AC"], [0.5, "rgba(128,128,128,0.12)"], [1, "#C0392B"]]
_CELL = 135  # pixels of a row


def gradient_figure(
    frames: Sequence[Frame], index: int, terms: Mapping[str, str], title: str
) -> go.Figure:
    """Draw an image and the steps that each term asks for, a row per frame.

    Args:
        frames: The frames.
        index: The image.
        terms: Titles of the terms, by name.
        title: Title of the image.
    """
    columns = ["image", *(title.replace(", ", "<br>") for title in terms.values()), "their sum"]
    figure = _grid([f"step {f.step}" for f in frames], columns)
    for row, frame in enumerate(frames, 1):
        figure.add_trace(_picture(frame.images[index]), row, 1)
        parts = [frame.gradients[term][index] for term in terms]
        for column, gradient in enumerate([*parts, sum(parts[1:], parts[0])], 2):
            figure.add_trace(_heat(gradient), row, column)
    title = f"{title}: what each term asks for, brighter (red) or darker (blue)"
    return _styled(figure, len(frames), title)


def growth_figure(walks: Mapping[str, Sequence[Frame]], index: int, title: str) -> go.Figure:
    """Draw the growth of an image of a title, a row per variant and a column per frame."""
    steps = [f"step {frame.step}" for frame in next(iter(walks.values()))]
    rows = ["<br>".join(wrap(VARIANTS[name], 18)) for name in walks]
    figure = _grid(rows, steps)
    for row, frames in enumerate(walks.values(), 1):
        for column, frame in enumerate(frames, 1):
            figure.add_trace(_picture(frame.images[index]), row, column)
    return _styled(figure, len(walks), f"{title}: the same noise under more and more terms")


def _grid(rows: Sequence[str], columns: Sequence[str]) -> go.Figure:
    """Return an empty figure of square cells, with titles of its rows and columns."""
    figure = make_subplots(
        len(rows),
        len(columns),
        column_titles=list(columns),
        horizontal_spacing=0.01,
        vertical_spacing=0.02,
    )
    for number in range(len(rows) * len(columns)):
        row, column = divmod(number, len(columns))
        name = f"x{number + 1}" if number else "x"
        text = rows[row] if not column else ""
        figure.update_yaxes(scaleanchor=name, title=text, row=row + 1, col=column + 1)
    return figure


def _styled(figure: go.Figure, rows: int, title: str) -> go.Figure:
    first = figure.layout.yaxis.title.text
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "constrain": "domain"}
    figure.update_xaxes(**bare).update_yaxes(autorange="reversed", **bare)
    apply_style(figure, title=title, x="", y=first, height=105 + _CELL * rows)
    figure.update_annotations(font_size=12)
    return figure.update_layout(margin={"b": 10, "t": 90}, showlegend=False)


def _picture(image: Tensor) -> go.Image:
    (shown,) = thumbnails(image[None], 2 * _MAX_SIDE)
    return go.Image(source=encode_image(shown, "png").data_uri, hoverinfo="skip")


def _heat(gradient: Tensor) -> go.Heatmap:
    """Return the descent direction of an image [3, S, S], mean over colours, in [-1, 1]."""
    down = -gradient.float().mean(0)[None]
    if down.shape[-1] > _MAX_SIDE:
        down = functional.adaptive_avg_pool2d(down, _MAX_SIDE)
    largest = down.abs().max().clamp_min(1e-30)
    return go.Heatmap(
        z=(down[0] / largest).numpy().round(3),
        zmin=-1,
        zmax=1,
        colorscale=_SIGNED,
        showscale=False,
        hovertemplate="%{z:.2f} of the largest<extra></extra>",
    )
