"""Who beats whom in a study."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.study import Names, facets
from prism_nb.figures.style import nothing, styled


def pair_facets(pairs: pd.DataFrame, names: Names) -> go.Figure:
    """Draw every difference: a cell is row minus column in points, ● where it exceeds the spread.

    Args:
        pairs: The result of `study.comparison.compare_pairs`.
        names: Of methods and scenarios.

    Returns:
        The figure; an empty one where there is no pair.
    """
    if not len(pairs):
        return nothing("One method has no rival")
    figure, places, rows = facets(
        names, set(pairs["scenario"]), columns=2, shared=False, wide=0.16, high=0.32
    )
    most = float(np.nanmax(pairs["difference"].abs()))
    methods = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    titles = [names.method(m) for m in methods]
    for scenario, place in places.items():
        differences, text = _matrix(pairs[pairs["scenario"] == scenario], methods)
        figure.add_heatmap(
            z=differences,
            x=titles,
            y=titles,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale="RdBu",
            zmin=-most,
            zmax=most,
            showscale=False,
            hovertemplate="%{y} minus %{x}: %{z:.1f} points<extra></extra>",
            **place,
        )
    figure.update_yaxes(autorange="reversed")
    styled(
        figure,
        title="Row minus column, points of accuracy; ● exceeds the spread (paired t, Holm, 5 %)",
        x="",
        y="",
        height=rows * (170 + 30 * len(methods)) + 40,
    )
    return figure.update_layout(margin={"l": 140, "t": 90})


def _matrix(part: pd.DataFrame, methods: list[str]) -> tuple[np.ndarray, list[list[str]]]:
    place = {method: index for index, method in enumerate(methods)}
    differences = np.full((len(methods), len(methods)), np.nan)
    text = [["" for _ in methods] for _ in methods]
    for pair in part.itertuples(index=False):
        for a, b, sign in ((pair.a, pair.b, 1), (pair.b, pair.a, -1)):
            differences[place[a], place[b]] = sign * pair.difference
            mark = "" if pair.verdict == "open" else " ●"
            text[place[a]][place[b]] = f"{sign * pair.difference:+.1f}{mark}"
    return differences, text
