"""Maps of images in a feature space: methods in their colours, real images in grey behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from prism_nb.class_names import class_label
from prism_nb.data.base import ClassInfo
from prism_nb.figures.cloud import MAPS, Cloud
from prism_nb.figures.palette import looks_of, symbol_of
from prism_nb.figures.style import styled
from prism_nb.plans.diversity import REFERENCE


def map_figure(
    points: Cloud,
    places: np.ndarray,
    kind: str,
    titles: dict[str, str],
    classes: Sequence[ClassInfo],
    network: str,
) -> go.Figure:
    """Draw images as points; methods differ by colour and symbol.

    Args:
        points: The images.
        places: Where each lies, [n, 2].
        kind: A name of `cloud.MAPS`.
        titles: How each method is called.
        classes: The dataset's.
        network: Whose features they are.
    """
    figure, looks = go.Figure(), looks_of([*titles, *points.table["method"]])
    table = points.table.assign(x=places[:, 0], y=places[:, 1], place=range(len(places)))
    for number, (method, group) in enumerate(table.groupby("method", sort=False)):
        names = [f"{class_label(classes[c])}, slot {s}" for c, s in _pairs(group)]
        figure.add_scatter(
            x=group["x"],
            y=group["y"],
            mode="markers",
            name=titles.get(str(method), str(method)),
            marker=_marker(str(method), looks[str(method)].colour, number),
            customdata=[[place] for place in group["place"]],
            text=names,
            hovertemplate="%{text}<extra>%{fullData.name}</extra>",
        )
    unit = "no unit: only who is near whom counts" if kind == "umap" else "of unit features"
    return styled(
        figure,
        title=f"{MAPS[kind]} of {points.words}, features of {network}",
        x=f"{MAPS[kind]} axis 1 ({unit})",
        y=f"{MAPS[kind]} axis 2",
        height=520,
    )


def map_table(points: Cloud, places: np.ndarray, titles: dict[str, str]) -> pd.DataFrame:
    """Return, per method, its images on a map, their centre, and their mean distance to it."""
    rows = {}
    for method, group in points.table.groupby("method", sort=False):
        mine = places[group.index]
        centre = mine.mean(0)
        spread = float(np.linalg.norm(mine - centre, axis=1).mean())
        title = titles.get(str(method), str(method))
        rows[title] = {"images": len(mine), "x": centre[0], "y": centre[1], "spread": spread}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _marker(method: str, colour: str, number: int) -> dict[str, object]:
    if method == REFERENCE:
        return {"color": colour, "size": 6, "opacity": 0.4, "symbol": "circle-open"}
    return {"color": colour, "size": 9, "opacity": 0.85, "symbol": symbol_of(number)}


def _pairs(group: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(group["class"], group["slot"], strict=True))
