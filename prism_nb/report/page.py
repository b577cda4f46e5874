"""Pages: templates filled with tables, figures and pictures, in one file that opens offline."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prism_nb.figures.html import Words, figure_html, in_words, table_html
from prism_nb.figures.sheets import Picture
from prism_nb.figures.theme import PAPER, RULES


@dataclass(frozen=True)
class Section:
    """A heading with a figure, the same numbers as a table, and a line on how to read them."""

    title: str
    figure: Markup
    table: Markup
    note: str = ""


def section(
    title: str,
    figure: go.Figure | None,
    table: pd.DataFrame | None,
    note: str = "",
    words: Words | None = None,
) -> Section:
    """Build a section from a figure, a table, or both.

    Args:
        title: Its heading.
        figure: The figure.
        table: The table.
        note: A line on how to read them.
        words: What names in the table are called, see `html.in_words`.
    """
    shown = Markup("") if table is None else table_markup(in_words(table, words or {}))
    drawn = Markup("" if figure is None else figure_html(figure))  # noqa: S704 (plotly escapes)
    return Section(title, drawn, shown, note)


def table_markup(frame: pd.DataFrame) -> Markup:
    """Return a table as HTML that is safe to put on a page."""
    return Markup(table_html(frame))  # noqa: S704 (escapes what it shows)


def picture(title: str, shown: Picture) -> dict[str, str]:
    """Return a picture as a page holds it, in its own text."""
    content = base64.b64encode(shown.content).decode()
    return {"title": title, "source": f"data:image/{shown.kind};base64,{content}"}


def render(template: str, **content: Any) -> str:
    """Fill a template of this folder; names of classes, runs and networks are escaped."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("prism_nb.viz", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    library = Markup(get_plotlyjs())  # noqa: S704 (shipped with plotly)
    theme = Markup(PAPER + RULES)  # noqa: S704 (the kit's own)
    return pages.get_template(template).render(library=library, theme=theme, **content)
