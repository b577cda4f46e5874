"""Tables and figures as pieces of HTML pages."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.text import DASH, format_value
from prism_nb.data.image_io import encode_image
from prism_nb.viz.style import PAGE_CSS, PLOTLY_CSS

LabelMap = Mapping[str, Mapping[str, str]]

CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}


def figure_html(figure: go.Figure) -> str:
    """Return a figure as a piece of HTML for a page that has plotly.js."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)


def rename_labels(table: pd.DataFrame, words: LabelMap) -> pd.DataFrame:
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
    plain[answers] = plain[answers].astype(object).map(format_value)
    with pd.option_context("display.max_colwidth", None):
        return plain.to_html(index=False, border=0, escape=True)


def _number(value: float) -> str:
    if pd.isna(value):
        return DASH
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


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


class HasPath(Protocol):
    """What figures are saved in: a run, or a study's folder."""

    @property
    def path(self) -> Path:
        """The folder."""


def save_figure(
    place: HasPath, name: str, figure: go.Figure, table: pd.DataFrame, words: LabelMap | None = None
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
        fileio.write_text(library, get_plotlyjs())
    page = _PAGE.format(
        title=html.escape(f"{name} · {place.path.name}"),
        theme=PAGE_CSS + PLOTLY_CSS,
        figure=figure_html(figure),
        table=table_html(rename_labels(table, words or {})),
    )
    fileio.write_text(folder / f"{name}.html", page)
    fileio.write_text(folder / f"{name}.json", figure.to_json())
    fileio.write_text(folder / f"{name}.csv", table.to_csv())
    return f"figures/{name}.html"


def save_picture(place: HasPath, name: str, picture: EncodedImage) -> str:
    """Write a picture beside the figures and return its path, relative to the place."""
    path = f"figures/{name}.{picture.kind}"
    fileio.write_bytes(place.path / path, picture.content)
    return path


QUALITY = 88  # of thumbnails, whose pixels are means of others anyway


@dataclass(frozen=True)
class Sprites:
    """Square images in one picture.

    Attributes:
        picture: PNG with the images' own pixels, or JPEG of smaller ones.
        kind: `png` or `jpeg`.
        columns: Images per row.
        rows: Rows.
    """

    picture: bytes
    kind: str
    columns: int
    rows: int

    def place(self, index: int) -> tuple[int, int]:
        """Return the row and column of an image."""
        return divmod(index, self.columns)


def sprites(images: Tensor, side: int) -> Sprites:
    """Lay images out for display at a side.

    Images that are shown at their own size or larger keep their pixels, and the page enlarges
    them; larger ones are made smaller here, so that no more is sent than is seen.

    Args:
        images: uint8 RGB [N, 3, S, S], N at least 1.
        side: The side at which each is shown, in pixels.
    """
    tiles = thumbnails(images, side)
    columns = math.ceil(math.sqrt(len(tiles)))
    kind = "jpeg" if side < images.shape[-1] else "png"
    return Sprites(_encoded(_grid(tiles, columns), kind), kind, columns, -(-len(tiles) // columns))


def thumbnails(images: Tensor, side: int) -> list[np.ndarray]:
    """Return images [S, S, 3], averaged down to a side where they are larger."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    if side >= images.shape[-1]:
        return list(pixels)
    return [_smaller(image, side) for image in pixels]


def _smaller(image: np.ndarray, side: int) -> np.ndarray:
    small = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small)


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    side = tiles[0].shape[0]
    sheet = np.zeros((-(-len(tiles) // columns) * side, columns * side, 3), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * side, (index % columns) * side
        sheet[top : top + side, left : left + side] = tile
    return sheet


def _encoded(sheet: np.ndarray, kind: str) -> bytes:
    options = {"compress_level": 1} if kind == "png" else _HOW[kind]
    return encode_image(Image.fromarray(sheet), kind, **options)


_GAP = 2  # pixels between images
_PAPER = 235  # grey of the gaps
_WIDTH = 900  # pixels, about
_MOST = 4  # times that an image is enlarged, at most
_HOW: dict[str, dict[str, Any]] = {
    "png": {"optimize": True},
    "jpeg": {"quality": QUALITY, "subsampling": 0},
}


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a file holds it.

    Attributes:
        content: The file's.
        kind: `png` or `jpeg`, also its ending.
    """

    content: bytes
    kind: str


def contact_sheet(images: Tensor, *, columns: int) -> EncodedImage:
    """Lay images out row by row, some 900 pixels wide.

    Small images keep their pixels, enlarged without smoothing, as PNG; those that are too wide
    are averaged down, as JPEG: a sheet of photographs is a megabyte then, and not dozens.

    Args:
        images: uint8 RGB [N, 3, S, S], N at least 1.
        columns: Images per row.
    """
    side = _WIDTH // columns
    tiles = thumbnails(images.cpu(), side)
    zoom = max(1, min(_MOST, side // tiles[0].shape[0]))
    sheet = Image.fromarray(_laid_out(tiles, columns))
    sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    kind = "jpeg" if side < images.shape[-1] else "png"
    return EncodedImage(encode_image(sheet, kind, **_HOW[kind]), kind)


def _laid_out(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    step = tiles[0].shape[0] + _GAP
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * step - _GAP, columns * step - _GAP, 3), _PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * step, (index % columns) * step
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
