"""Common style of figures and pages: method colours, axes, CSS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pandas as pd
import plotly.graph_objects as go

TEXT_COLOR = "#767b80"  # readable on white and on black
_CLEAR = "rgba(0,0,0,0)"
_AXIS = {
    "gridcolor": "rgba(128,128,128,0.25)",
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 12},
    "tickcolor": TEXT_COLOR,
    "exponentformat": "power",
}
_BAR = {"outlinewidth": 0, "title": {"side": "right"}}
_ERROR_BARS = {"error_x": {"color": TEXT_COLOR}, "error_y": {"color": TEXT_COLOR}}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": TEXT_COLOR},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {"colorbar": _BAR},
        # plotly's own button uploads the figure to a server.
        "modebar": {"bgcolor": _CLEAR, "color": TEXT_COLOR, "remove": ["sendChartToCloud"]},
    },
    data={
        "bar": [_ERROR_BARS],
        "scatter": [_ERROR_BARS],
        "heatmap": [{"colorbar": _BAR}],
    },
)
_MAX_CLASS_NAMES = 40  # class names that fit on an axis

# Distinguishable to colour-blind eyes; tests check that.
METHOD_COLORS = {
    "prism": "#4477AA",
    "prism_intra": "#55BBEE",
    "prism_all": "#444499",
    "prism_wide": "#7777EE",
    "prism_reference": "#6677CC",
    "prism_balanced": "#2255DD",
    "prism_class": "#3322DD",
    "sre2l": "#EE6677",
    "cda": "#994400",
    "gvbsm": "#AA3377",
    "delt": "#DDAA33",
    "edc": "#884444",
    "cvdd": "#774488",
    "fadrm": "#EE8800",
    "fadrm_plus": "#991100",
    "reta": "#CC3322",
    "psm": "#448866",
    "prism_psm": "#3366AA",
    "cim": "#8822FF",
    "rded": "#00BBBB",
    "random_real": "#228833",
    "el2n": "#1100FF",
    "herding": "#2233CC",
    "k_center": "#5533AA",
    "forgetting": "#7766FF",
    "pca_mosaic": "#225533",
    "real": "#777777",
}
_OWN_METHODS = (
    *("#AABB66", "#FF8855", "#AA88CC", "#00CC99", "#888800", "#228899", "#774422"),
    *("#FF88BB", "#66AAFF", "#66AA99", "#DD5544", "#883355", "#339966"),
)
NETWORK_COLORS = (  # earth tones, which no method has
    *("#A25F4E", "#5A9696", "#BBA572", "#785C59"),
    *("#72965A", "#E19A89", "#8D8644", "#B18C7C"),
)
DASHES = ("solid", "8px,4px", "2px,3px", "8px,3px,2px,3px", "18px,4px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


@dataclass(frozen=True)
class Legend:
    """Titles, colours and marks of methods that are shown together.

    The kit's own methods have fixed colours; others take the remaining ones in alphabetical order.
    """

    titles: Mapping[str, str]  # the methods' titles by name, in the order in which they are shown

    def color(self, method: str) -> str:
        """Return a method's colour, hex."""
        if method in METHOD_COLORS:
            return METHOD_COLORS[method]
        rank = sorted(set(self.titles) - set(METHOD_COLORS)).index(method)
        return _OWN_METHODS[rank % len(_OWN_METHODS)]

    def rename(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with titles in its column `method`."""
        return table.assign(method=table["method"].map(self.titles))

    def scales(self, *aesthetics: str) -> dict[str, Any]:
        """Return arguments of `plotly.express` that style the column `method`, by title.

        Args:
            aesthetics: Some of `color`, `line_dash` and `symbol`.
        """
        maps = {
            "color": ("color_discrete_map", map(self.color, self.titles)),
            "line_dash": ("line_dash_map", cycle(DASHES)),
            "symbol": ("symbol_map", cycle(SYMBOLS)),
        }
        titles = list(self.titles.values())
        arguments: dict[str, Any] = {"category_orders": {"method": titles}}
        for name in aesthetics:
            argument, values = maps[name]
            arguments |= {name: "method", argument: dict(zip(titles, values, strict=False))}
        if "line_dash" in aesthetics:
            arguments["render_mode"] = "svg"  # WebGL, plotly's choice for many points, lacks dashes
        return arguments


def color_at(index: int) -> str:
    """Return the colour of a network, by its place in the pool."""
    return NETWORK_COLORS[index % len(NETWORK_COLORS)]


def short_names(networks: Sequence[str]) -> dict[str, str]:
    """Return the architectures of networks by name, with weights' names where those differ only so.

    Libraries and folders of weights files are left out, unless two names would be the same.
    """
    short = {name: name.partition("@")[0].rpartition("/")[2] for name in networks}
    with_weights = {
        name: f"{short[name]}@{name.partition('@')[2].rpartition('/')[2]}".removesuffix("@")
        for name in short
    }
    for longer in (with_weights, {name: name for name in short}):
        count = Counter(short.values())
        short = {name: longer[name] if count[each] > 1 else each for name, each in short.items()}
    return short


def dash_of(index: int) -> str:
    """Return the dashes of a line, for plotly and SVG; 40 lines differ in these or `color_at`."""
    return DASHES[index % len(DASHES)]


def ink_on(color: str) -> str:
    """Return black or white, whichever has more contrast on a hex colour (WCAG 2)."""
    levels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def apply_style(figure: go.Figure, *, title: str, x: str, y: str, height: int = 420) -> go.Figure:
    """Set a figure's title, axis titles (with units), template, and the ink of numbers in bars."""
    figure.for_each_trace(
        lambda bar: bar.update(insidetextfont={"color": ink_on(bar.marker.color)}),
        selector={"type": "bar"},
    )
    return figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 17}},
        template=_TEMPLATE,
        height=height,
        legend={"title": {"text": ""}},
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
    )


def with_chance(figure: go.Figure, *levels: float, axis: str = "y") -> go.Figure:
    """Draw chance, in percent, as labelled lines across an axis of accuracies."""
    for level in dict.fromkeys(levels):
        add, place = (
            (figure.add_hline, "top right") if axis == "y" else (figure.add_vline, "bottom right")
        )
        add(
            level,
            line={"color": TEXT_COLOR, "dash": "dot", "width": 1.5},
            annotation={"text": f"chance {level:.3g} %", "font": {"size": 11}},
            annotation_position=place,
        )
    return figure


def error_bars(mean: pd.Series, std: pd.Series) -> pd.DataFrame:
    """Return the lengths of error bars of percentages, `above` and `below`, within 0 to 100."""
    return pd.DataFrame({"above": std.clip(upper=100 - mean), "below": std.clip(upper=mean)})


def style_class_axis(figure: go.Figure, classes: int) -> go.Figure:
    """Hide the class names of an x axis where there are too many; they are on hover."""
    if classes <= _MAX_CLASS_NAMES:
        return figure
    title = f"{classes} classes, in order (hover for a name)"
    return figure.update_xaxes(showticklabels=False, title={"text": title})


# Text of figures that is on the page, and not on a mark of the figure.
FIGURE_TEXT = (
    ".main-svg :is([class$=title], [class$=title] text, [class$=tick] text, .cbaxis text,"
    " .legendtext, .annotation-text)"
)

# Light and dark pages; within JupyterLab, its own theme applies.
PAGE_CSS = (
    """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #23282e; --soft: #68717b; --line: #d9dde1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e4e7ea; --soft: #98a2ac; --line: #343b43; } }
body { background: var(--paper); color: var(--ink); }
"""
    + f"{FIGURE_TEXT} {{ fill: var(--soft) !important; }}\n"
)
