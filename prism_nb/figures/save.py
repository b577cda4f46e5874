"""Saving figures: an HTML file that opens offline, with its numbers beside it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Protocol

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from prism_nb import files
from prism_nb.figures.html import Words, figure_html, in_words, table_html
from prism_nb.figures.sheets import Picture
from prism_nb.figures.theme import PAPER, RULES

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<script src="plotly.min.js"></script>
<style>
{theme}
 body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; }}
 table {{ border-collapse: collapse; }} th, td {{ padding: .25rem .8rem; text-align: right; }}
 tr + tr, tbody {{ border-top: 1px solid var(--line); }} th {{ font-weight: 600; }}
</style></head><body>
{figure}
{table}
</body></html>
"""


class Place(Protocol):
    """What figures are saved in: a run, or a study's folder."""

    @property
    def path(self) -> Path:
        """The folder."""


def save_figure(
    place: Place, name: str, figure: go.Figure, table: pd.DataFrame, words: Words | None = None
) -> str:
    """Write a figure as HTML and JSON, and its numbers as CSV.

    Args:
        place: The run or study.
        name: File name without ending.
        figure: The figure.
        table: The numbers that it shows; the HTML holds them too.
        words: What names in the table are called in the HTML, see `html.in_words`; the CSV keeps
            the names.

    Returns:
        The path of the HTML file, relative to the place. It needs `plotly.min.js` beside it,
        which is written once, and no network.
    """
    folder = place.path / "figures"
    library = folder / "plotly.min.js"
    if not library.is_file():
        files.write_text(library, get_plotlyjs())
    page = _PAGE.format(
        title=html.escape(f"{name} · {place.path.name}"),
        theme=PAPER + RULES,
        figure=figure_html(figure),
        table=table_html(in_words(table, words or {})),
    )
    files.write_text(folder / f"{name}.html", page)
    files.write_text(folder / f"{name}.json", figure.to_json())
    files.write_text(folder / f"{name}.csv", table.to_csv())
    return f"figures/{name}.html"


def save_picture(place: Place, name: str, picture: Picture) -> str:
    """Write a picture beside the figures and return its path, relative to the place."""
    path = f"figures/{name}.{picture.kind}"
    files.write_bytes(place.path / path, picture.content)
    return path
