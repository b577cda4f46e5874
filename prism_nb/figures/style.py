"""One look for all figures: quiet axes on the page's own paper, light or dark."""

from __future__ import annotations

import plotly.graph_objects as go

INK = "#767b80"  # read on white and on black; pages with `theme.RULES` draw in their own ink
_CLEAR = "rgba(0,0,0,0)"
GRID = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
_AXIS = {**GRID, "automargin": True, "title": {"standoff": 12}, "tickcolor": INK}
_BAR = {"outlinewidth": 0, "title": {"side": "right"}}  # beside its numbers, not on them
_SPREAD = {"color": INK}
_HATCHING = {"fillmode": "overlay", "solidity": 0.15, "size": 10}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": INK},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {"colorbar": _BAR},
        "legend": {"title": None},
        # plotly's own button uploads the figure to a server.
        "modebar": {
            "bgcolor": _CLEAR,
            "color": INK,
            "activecolor": "#4477AA",
            "remove": ["sendChartToCloud"],
        },
    },
    data={
        "bar": [{"error_x": _SPREAD, "error_y": _SPREAD, "marker": {"pattern": _HATCHING}}],
        "scatter": [{"error_x": _SPREAD, "error_y": _SPREAD}],
        "heatmap": [{"colorbar": _BAR}],
    },
)
_MOST_NAMED = 40  # classes that have room for their names


def styled(figure: go.Figure, *, title: str, x: str, y: str, height: int = 420) -> go.Figure:
    """Give a figure its title, axis titles with units, and the common look."""
    return figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 17}},
        template=_TEMPLATE,
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
    )


def nothing(sentence: str) -> go.Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = styled(go.Figure(), title=sentence, x="", y="", height=120)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def by_class(figure: go.Figure, classes: int) -> go.Figure:
    """Give a figure with a class per place its axis; too many to be named there are on hover."""
    if classes <= _MOST_NAMED:
        return figure
    title = f"{classes} classes, in order (hover for a name)"
    return figure.update_xaxes(showticklabels=False, title={"text": title})
