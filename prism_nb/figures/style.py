"""One look for all figures: a colour per method, quiet axes, readable on light and dark."""

from __future__ import annotations

import plotly.graph_objects as go

# Paul Tol's colour-blind safe hues, with fixed owners so that a method looks the same everywhere.
_OWNED = {
    "prism": "#4477AA",
    "prism_intra": "#66CCEE",
    "prism_all": "#332288",
    "prism_wide": "#223366",
    "prism_reference": "#88AACC",
    "sre2l": "#EE6677",
    "cda": "#CC6644",
    "gvbsm": "#AA3377",
    "delt": "#DDAA33",
    "edc": "#882255",
    "cvdd": "#BB5566",
    "rded": "#44AA99",
    "random_real": "#228833",
    "real": "#777777",
}
_SPARE = ("#CCBB44", "#66CCEE", "#AA3377", "#882255", "#44AA99", "#999933")
GRID = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
_MOST_NAMED = 40  # classes that have room for their names
_DASHES = ("solid", "dash", "dot", "dashdot")


def colour_of(name: str) -> str:
    """Return a method's colour, always the same for the same name."""
    return _OWNED.get(name) or _SPARE[sum(name.encode()) % len(_SPARE)]


def colour_at(place: int) -> str:
    """Return the colour of what is not a method, such as a network, by its place in a list."""
    return _SPARE[place % len(_SPARE)]


def dash_of(place: int) -> str:
    """Return a line style, so that lines differ by more than colour."""
    return _DASHES[place % len(_DASHES)]


def faded(colour: str, opacity: float) -> str:
    """Return a hex colour with an opacity in [0, 1]."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def styled(figure: go.Figure, *, title: str, x: str, y: str, height: int = 420) -> go.Figure:
    """Give a figure its title, axis titles with units, and the common look."""
    return figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 17}},
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        legend={"title": None},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#9aa3ab"},
        xaxis={"title": {"text": x}, **GRID},
        yaxis={"title": {"text": y}, **GRID},
    )


def by_class(figure: go.Figure, classes: int) -> go.Figure:
    """Give a figure with a class per place its axis; too many to be named there are on hover."""
    if classes <= _MOST_NAMED:
        return figure
    title = f"{classes} classes, in order (hover for a name)"
    return figure.update_xaxes(showticklabels=False, title={"text": title})
