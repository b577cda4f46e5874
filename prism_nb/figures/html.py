"""Tables and figures as pieces of HTML pages."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from prism_nb.words import DASH, value_words

Words = Mapping[str, Mapping[str, str]]

CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}


def figure_html(figure: go.Figure) -> str:
    """Return a figure as a piece of HTML for a page that has plotly.js."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)


def in_words(table: pd.DataFrame, words: Words) -> pd.DataFrame:
    """Return a table with titles in place of names.

    Args:
        table: The table.
        words: Titles by name, for each column, level of the index or level of the columns that
            holds such names.
    """
    shown = table.copy()
    for axis, titles in words.items():
        if axis in shown.columns:
            shown[axis] = [titles.get(str(name), name) for name in shown[axis]]
        if axis in shown.index.names:
            shown = shown.rename(index=titles, level=axis)
        if axis in shown.columns.names:
            shown = shown.rename(columns=titles, level=axis)
    return shown


def table_html(table: pd.DataFrame) -> str:
    """Return a table as HTML: an index that is no mere count becomes columns, NaN a dash."""
    plain = table.copy()
    if any(table.index.names):
        plain = table.reset_index()
    elif table.index.dtype.kind not in "iu":
        plain = table.rename_axis("").reset_index()
    plain.columns.name = None  # pandas would give it a column of its own
    numbers = plain.select_dtypes("float").columns
    plain[numbers] = plain[numbers].astype(object).map(_number)
    answers = plain.select_dtypes("bool").columns
    plain[answers] = plain[answers].astype(object).map(value_words)
    with pd.option_context("display.max_colwidth", None):
        return plain.to_html(index=False, border=0, escape=True)


def _number(value: float) -> str:
    if pd.isna(value):
        return DASH
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
