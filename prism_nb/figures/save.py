"""Saving figures into the run: an HTML file that opens offline, with its numbers beside it."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from prism_nb import files
from prism_nb.figures.html import figure_html, table_html
from prism_nb.run import Run

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<script src="plotly.min.js"></script>
<style>
 body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222; }}
 table {{ border-collapse: collapse; }} th, td {{ padding: .25rem .8rem; text-align: right; }}
 tr + tr, tbody {{ border-top: 1px solid #ddd; }} th {{ font-weight: 600; }}
</style></head><body>
{figure}
{table}
</body></html>
"""


def save_figure(run: Run, name: str, figure: go.Figure, table: pd.DataFrame) -> str:
    """Write a figure as HTML and JSON, and its numbers as CSV.

    Args:
        run: The run.
        name: File name without ending.
        figure: The figure.
        table: The numbers that it shows; the HTML holds them too.

    Returns:
        The path of the HTML file, relative to the run. It needs `plotly.min.js` beside it, which
        is written once per run, and no network.
    """
    library = run.file("figures/plotly.min.js")
    if not library.is_file():
        files.write_text(library, get_plotlyjs())
    page = _PAGE.format(
        title=html.escape(f"{name} · {run.name}"),
        figure=figure_html(figure),
        table=table_html(table),
    )
    files.write_text(run.file(f"figures/{name}.html"), page)
    files.write_text(run.file(f"figures/{name}.json"), figure.to_json())
    files.write_text(run.file(f"figures/{name}.csv"), table.to_csv())
    return f"figures/{name}.html"


def save_picture(run: Run, name: str, png: bytes) -> str:
    """Write a PNG into the run's figures and return its path, relative to the run."""
    files.write_bytes(run.file(f"figures/{name}.png"), png)
    return f"figures/{name}.png"
