"""Tables and figures as pieces of HTML pages."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}


def figure_html(figure: go.Figure) -> str:
    """Return a figure as a piece of HTML for a page that has plotly.js."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)


def table_html(table: pd.DataFrame) -> str:
    """Return a table as HTML: named index levels become columns, missing values a dash."""
    plain = table.reset_index() if any(table.index.names) else table.copy()
    plain.columns.name = None  # pandas would give it a column of its own
    numbers = plain.select_dtypes("float").columns
    plain[numbers] = plain[numbers].astype(object).map(_number)
    with pd.option_context("display.max_colwidth", None):
        return plain.to_html(index=False, border=0, escape=True)


def _number(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
