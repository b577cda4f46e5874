"""One look for all figures: quiet axes on the page's own paper, light or dark."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import ipywidgets as widgets
import plotly.graph_objects as go

TEXT_COLOR = "#767b80"  # read on white and on black; pages with `theme.RULES` draw in their own ink
_CLEAR = "rgba(0,0,0,0)"
GRID_COLOR = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
_AXIS = {**GRID_COLOR, "automargin": True, "title": {"standoff": 12}, "tickcolor": TEXT_COLOR}
_BAR = {"outlinewidth": 0, "title": {"side": "right"}}  # beside its numbers, not on them
_SPREAD = {"color": TEXT_COLOR}
_HATCHING = {"fillmode": "overlay", "solidity": 0.15, "size": 10}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": TEXT_COLOR},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "coloraxis": {"colorbar": _BAR},
        "legend": {"title": None},
        # plotly's own button uploads the figure to a server.
        "modebar": {
            "bgcolor": _CLEAR,
            "color": TEXT_COLOR,
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


def apply_style(figure: go.Figure, *, title: str, x: str, y: str, height: int = 420) -> go.Figure:
    """Give a figure its title, axis titles with units, and the common look."""
    return figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 17}},
        template=_TEMPLATE,
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
    )


def empty_figure(sentence: str) -> go.Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = apply_style(go.Figure(), title=sentence, x="", y="", height=120)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def by_class(figure: go.Figure, classes: int) -> go.Figure:
    """Give a figure with a class per place its axis; too many to be named there are on hover."""
    if classes <= _MOST_NAMED:
        return figure
    title = f"{classes} classes, in order (hover for a name)"
    return figure.update_xaxes(showticklabels=False, title={"text": title})


# Of a page that stands alone; within JupyterLab, the lab's own colours rule.
PAGE_CSS = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #23282e; --soft: #68717b; --line: #d9dde1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e4e7ea; --soft: #98a2ac; --line: #343b43; } }
body { background: var(--paper); color: var(--ink); }
"""

# plotly writes its colours into every element. These rules come before them, so that titles,
# numbers, spreads and tools follow the text around the figure; values on bars, squares and in
# hover labels keep the colour that suits what they stand on.
PLOTLY_CSS = """
.js-plotly-plot .infolayer text, .js-plotly-plot .cartesianlayer [class$="tick"] text,
.js-plotly-plot .textpoint text, .js-plotly-plot .bartext-outside
  { fill: currentColor !important; }
.js-plotly-plot .xerror, .js-plotly-plot .yerror { stroke: currentColor !important; }
.js-plotly-plot .modebar-btn .icon path { fill: currentColor !important; fill-opacity: .55; }
.js-plotly-plot .modebar-btn:hover .icon path, .js-plotly-plot .modebar-btn.active .icon path
  { fill-opacity: 1; }
.js-plotly-plot .modebar-btn.active { outline: 1px solid currentColor; border-radius: 3px; }
"""

_OWNED = {
    "prism": "#4477AA",
    "prism_intra": "#55BBEE",
    "prism_all": "#444499",
    "prism_wide": "#7777EE",
    "prism_reference": "#6677CC",
    "sre2l": "#EE6677",
    "cda": "#994400",
    "gvbsm": "#AA3377",
    "delt": "#DDAA33",
    "edc": "#884444",
    "cvdd": "#774488",
    "rded": "#00BBBB",
    "random_real": "#228833",
    "real": "#777777",
}
_SPARE = (
    *("#AABB66", "#FF8855", "#AA88CC", "#00CC99", "#888800", "#228899", "#774422"),
    *("#FF88BB", "#66AAFF", "#66AA99", "#DD5544", "#883355", "#339966"),
)
_OTHER = (
    *("#0066CC", "#EE9988", "#886622", "#336677"),
    *("#BB5555", "#88BBDD", "#119999", "#BB9966"),
)
_DASHES = ("solid", "8px,4px", "2px,3px", "8px,3px,2px,3px", "18px,4px")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
_PATTERNS = ("", "/", "\\", "x", "-", "|", "+", ".")


@dataclass(frozen=True)
class MethodStyle:
    """How a method looks.

    Attributes:
        colour: Hex.
        cue: 0; where colours have run out, the number of methods before it of the same colour.
    """

    colour: str
    cue: int = 0

    @property
    def fill(self) -> dict[str, object]:
        """The `marker` of its bars: its colour, hatched where that is not its own alone."""
        return {"color": self.colour, "pattern": {"shape": pattern_of(self.cue)}}


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """Return how each of some methods looks that are shown together; no two look alike.

    Recipes of the kit have colours of their own. Any other method has the spare colour that its
    name falls on, or the next free one, names in alphabetical order: so the order of the methods
    is of no account, and a part of them nearly always looks as the whole does.

    Args:
        methods: Their names, repetitions allowed.
    """
    names = sorted(set(methods))
    looks = {name: MethodStyle(_OWNED[name]) for name in names if name in _OWNED}
    free: list[str] = []
    rounds: Counter[str] = Counter()
    for name in names:
        if name not in looks:
            free = free or list(_SPARE)
            colour = _next_free(free, crc32(name.encode()) % len(_SPARE))
            free.remove(colour)
            looks[name] = MethodStyle(colour, rounds[colour])
            rounds[colour] += 1
    return looks


def colour_of(method: str) -> str:
    """Return the colour of a method by itself; of those shown together, see `looks_of`."""
    return method_styles([method])[method].colour


def colour_at(place: int) -> str:
    """Return the colour of what is no method, such as a network, by its place in a list."""
    return _OTHER[place % len(_OTHER)]


def dash_of(place: int) -> str:
    """Return a line's dashes by its place in a list, as plotly and SVG read them; all differ."""
    if place < len(_DASHES):
        return _DASHES[place]
    return "10px,3px" + ",2px,3px" * (place - len(_DASHES) + 2)


def symbol_of(place: int) -> str:
    """Return a mark by its place in a list."""
    return _SYMBOLS[place % len(_SYMBOLS)]


def pattern_of(place: int) -> str:
    """Return the hatching of an area by its place in a list; the first has none."""
    return _PATTERNS[place % len(_PATTERNS)]


def with_alpha(colour: str, opacity: float) -> str:
    """Return a hex colour with an opacity in [0, 1]."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _next_free(free: list[str], wanted: int) -> str:
    turned = (*_SPARE[wanted:], *_SPARE[:wanted])
    return next(colour for colour in turned if colour in free)


_RULES = """
.prism-picker {max-width: 860px}
.prism-picker h4 {margin: 10px 0 2px; font-size: 14px; font-weight: 600}
.prism-picker p {margin: 2px 0; line-height: 1.45}
.prism-picker .prism-quiet {color: var(--jp-ui-font-color2, #666)}
.prism-list select, .prism-head {font-family: var(--jp-code-font-family, monospace);
  font-size: 12px; line-height: 1.45; white-space: pre}
.prism-head {color: var(--jp-ui-font-color2, #666); padding-left: 3px}
.prism-list > label {position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%)}
.prism-list select {color: var(--jp-ui-font-color1, #222)}
.prism-tables table {border-collapse: collapse; margin: 4px 0 8px; font-size: 12px}
.prism-tables th, .prism-tables td {padding: 2px 8px; text-align: right; font-weight: normal;
  white-space: nowrap; border-bottom: 1px solid var(--jp-border-color2, #ddd)}
.prism-tables th {color: var(--jp-ui-font-color2, #666)}
.prism-tables th:first-child, .prism-tables td:first-child {text-align: left; padding-left: 2px;
  white-space: normal; overflow-wrap: anywhere}
.prism-tables caption {text-align: left; padding: 2px; white-space: nowrap}
.prism-picker pre {margin: 4px 0; padding: 6px 10px; font-size: 12px; line-height: 1.4;
  background: var(--jp-layout-color2, #f4f4f4); color: var(--jp-ui-font-color1, #222);
  user-select: all; overflow: auto; max-height: 260px}
.prism-bar {display: inline-block; height: 9px; background: #4477AA; vertical-align: middle}
.prism-note {border-left: 3px solid #DDAA33; padding-left: 8px}
.prism-stop {border-left: 3px solid #EE6677; padding-left: 8px}
.prism-good {border-left: 3px solid #228833; padding-left: 8px}
.prism-tables .prism-heat th[scope=col], .prism-heat td {text-align: center; min-width: 34px;
  padding: 4px 6px}
"""


def css() -> widgets.HTML:
    """Return an invisible widget that brings the look along."""
    return widgets.HTML(f"<style>{_RULES}</style>", layout={"display": "none"})


def heading(text: str) -> widgets.HTML:
    """Return a heading."""
    return widgets.HTML(f"<h4>{html.escape(text)}</h4>")


def note_html(text: str, kind: str = "quiet") -> str:
    """Return a paragraph of plain text.

    Args:
        text: It; never HTML.
        kind: `quiet`, `note` (beware), `stop` (cannot be used) or `good`.
    """
    return f'<p class="prism-{kind}">{html.escape(text)}</p>'


def notice(text: str) -> str:
    """Return plain text that stands above a widget; it brings its look along."""
    look = "border-left:3px solid #DDAA33;padding-left:8px;margin:2px 0"
    return f'<p role="status" style="{look}">{html.escape(text)}</p>'


def nbsp_pad(text: str) -> str:
    """Keep runs of spaces in the options of a list, where a browser would join them."""
    return text.replace(" ", "\u00a0")
