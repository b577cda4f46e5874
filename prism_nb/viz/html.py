"""HTML of tables, figures and images, and the files that they are saved in."""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.paths import project_root
from prism_nb.core.text import DASH, format_value
from prism_nb.data import image_io
from prism_nb.viz.style import FIGURE_TEXT, PAGE_CSS

# Titles by name, for each column, level of the index or of the columns that holds such names.
LabelMap = Mapping[str, Mapping[str, str]]

# JSON of images and what is known of them, as `inspector.image_deck` makes it.
Deck = dict[str, Any]

NOTEBOOK_FOLDER = "PRISM_NOTEBOOK_FOLDER"  # variable of a notebook that is saved elsewhere
CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
SHEET_WIDTH = 900  # pixels of a contact sheet, about
_MAX_ZOOM = 4  # of small images in a contact sheet
_LONG_NAME = 16  # characters of a name on the y axis that take much of a phone's width
GAP = 2  # pixels between the images of a contact sheet
_BACKGROUND = 235  # grey level of the gaps
_MAX_DECIMALS = 4
_JPEG = {"quality": 88, "subsampling": 0}


@dataclass(frozen=True)
class Result:
    """Numbers of a run or a study, the figure that draws them, and how to read them."""

    table: pd.DataFrame = field(default_factory=pd.DataFrame)  # the numbers
    # The figure; None where the table is all, or where `note` has the reason
    figure: go.Figure | None = None
    note: str = ""  # one or more sentences; may be empty
    # Function for the images that the figure's `customdata` index; None without
    deck: Callable[[], Deck] | None = None


# -- figures and pages -----------------------------------------------------------------------


def figure_html(figure: go.Figure) -> Markup:
    """Return a figure as a piece of HTML for a page that has plotly.js.

    Its title is text of the page, its legend is above it, and panels side by side, or beside long
    names, keep a width.
    """
    drawn, layout = go.Figure(figure), figure.layout
    panels = {axis.domain[0] for axis in drawn.select_xaxes() if axis.domain}
    columns = [trace.y for trace in drawn.data if getattr(trace, "y", None) is not None]
    longest = max((len(y) for column in columns for y in column if isinstance(y, str)), default=0)
    margin = layout.margin.to_plotly_json() | {"t": 50 if layout.annotations else 20}
    height = layout.height - margin["t"] - margin["b"]
    above = {"orientation": "h", "x": 0, "y": 1 + 30 / height, "yanchor": "bottom"}
    legend = {} if layout.legend.orientation else above
    drawn.update_layout(title={"text": "", "subtitle": {"text": ""}}, margin=margin, legend=legend)
    return Markup(
        "<figure><figcaption>{0} <small>{1}</small></figcaption>"
        "<div class='scroll' role='group' aria-label='{0}'>"
        "<div style='min-width: {2}px'>{3}</div></div></figure>"
    ).format(
        layout.title.text,
        layout.title.subtitle.text or "",
        290 * len(panels) + 7 * longest if len(panels) > 1 or longest > _LONG_NAME else 0,
        Markup(drawn.to_html(full_html=False, include_plotlyjs=False, config=CONFIG)),  # noqa: S704 (plotly escapes)
    )


def figure_bundle(figure: go.Figure, name: str) -> dict[str, Any]:
    """Return a figure as a MIME bundle; plotly's own renderers take seconds to load."""
    return {"application/vnd.plotly.v1+json": figure.to_plotly_json(), "text/plain": name}


def save_figure(folder: Path, name: str, figure: go.Figure, table: pd.DataFrame) -> str:
    """Write a figure as HTML and as plotly's JSON, and its numbers as CSV, into `figures/`.

    Args:
        folder: Folder of the run or study.
        name: File name without ending.
        figure: The figure.
        table: The numbers that it shows.

    Returns:
        The path of the JSON file, relative to the folder, which JupyterLab opens as a figure. The
        HTML file works in any browser, offline, with the `plotly.min.js` next to it.
    """
    figures = folder / "figures"
    library = figures / "plotly.min.js"
    if not library.is_file():
        fileio.write_text(library, get_plotlyjs())
    page = figure.to_html(include_plotlyjs="directory", config=CONFIG)
    fileio.write_text(figures / f"{name}.html", page)
    fileio.write_text(figures / f"{name}.plotly.json", figure.to_json())
    fileio.write_text(figures / f"{name}.csv", table.to_csv())
    return f"figures/{name}.plotly.json"


def file_link(path: Path, text: str) -> str:
    """Return a link that opens a file from JupyterLab: relative to the notebook's folder.

    A page opens in a tab of the browser, since JupyterLab's own viewer runs no scripts. JupyterLab
    leaves links to downloads alone, and on a click this one ceases to be such a link.
    """
    folder = os.environ.get(NOTEBOOK_FOLDER, os.curdir)
    place, outside = quote(os.path.relpath(path, folder)), ""
    if path.suffix == ".html":
        outside = " download target='_blank' onclick='this.removeAttribute(\"download\")'"
    return f"<a href='{place}'{outside}>{html.escape(text)}</a>"


def folder_link(path: Path) -> str:
    """Return a folder's path as a button that shows it in JupyterLab, if served with the clone."""
    text = f"<code>{html.escape(str(path))}</code>"
    if not path.is_relative_to(project_root()):
        return text
    place = html.escape(json.dumps({"path": path.relative_to(project_root()).as_posix()}))
    command = (
        f'data-commandlinker-command="filebrowser:open-path" data-commandlinker-args="{place}"'
    )
    return f"{text} <button {command}>Show in the file browser</button>"


def saved_html(folder: Path, path: str) -> str:
    """Return the sentence that a file of a folder was saved, with a link to it."""
    return f"<p>saved as {file_link(folder / path, path)}</p>"


def render_page(template: str, **content: Any) -> str:
    """Fill a template of `viz/templates`; text is escaped, `Markup` is not.

    Templates have the functions `plotly_js` and `page_css`, and the selector `figure_text`.
    """
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("prism_nb.viz", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    pages.globals["plotly_js"] = lambda: Markup(get_plotlyjs())  # noqa: S704 (plotly's own)
    pages.globals["figure_text"] = Markup(FIGURE_TEXT)  # noqa: S704 (the kit's own)
    pages.globals["page_css"] = lambda: Markup(PAGE_CSS)  # noqa: S704 (the kit's own)
    return pages.get_template(template).render(**content)


# -- tables ----------------------------------------------------------------------------------


def table_html(table: pd.DataFrame, titles: LabelMap | None = None) -> Markup:
    """Return a table as escaped HTML, with titles in place of names.

    An index other than a count becomes columns. Text is on the left, numbers on the right; those
    of a column, or of a row of measures, have equally many decimals. NaN is a dash.
    """
    plain = _with_titles(table, titles or {})
    by_row = plain.index.name == "measure"
    if any(plain.index.names):
        plain = plain.reset_index()
    elif plain.index.dtype.kind not in "iu":
        plain = plain.rename_axis("").reset_index()
    if by_row:
        cells = [_cells(row[0], row[1:]) for row in plain.itertuples(index=False)]
        columns = [list(plain.iloc[:, 0]), *(list(column) for column in zip(*cells, strict=True))]
    else:
        columns = [_cells(str(name), plain.iloc[:, i]) for i, name in enumerate(plain.columns)]
    of_text = [not all(map(_NUMBER.fullmatch, column)) for column in columns]
    head = _row("th", map(str, plain.columns), of_text)
    body = Markup("\n").join(_row("td", cells, of_text) for cells in zip(*columns, strict=True))
    return Markup("<table><thead>{}</thead>\n<tbody>{}</tbody></table>").format(head, body)


# A number, with a deviation or a mark perhaps, or a dash.
_NUMBER = re.compile(rf"[-+]?[\d.,]+( ± [\d.]+)?( ●)?|{DASH}")


def _row(tag: str, cells: Iterable[str], of_text: Sequence[bool]) -> Markup:
    # Style sheets of notebooks, pages and widgets have all cells on the right.
    kinds = (Markup("<{0}>{1}</{0}>"), Markup('<{0} style="text-align: left">{1}</{0}>'))
    found = [kinds[text].format(tag, cell) for text, cell in zip(of_text, cells, strict=True)]
    return Markup("<tr>{}</tr>").format(Markup("").join(found))


def _cells(name: str, values: Iterable[Any]) -> list[str]:
    """Return values of one quantity as text: all floats with equally many decimals."""
    values = list(values)
    finite = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v)]
    numbers = [number for number in finite if round(number, _MAX_DECIMALS)]
    decimals = 1
    if not re.search(r"%|^epoch |^top-", name) and numbers:
        # Three digits of the largest, and one of the least.
        powers = [math.floor(math.log10(number)) for number in numbers]
        decimals = min(_MAX_DECIMALS, max(1, 2 - max(powers), -min(powers)))
        decimals *= any(number % 1 for number in numbers)
    return [_cell(value, decimals) for value in values]


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, float):
        # Adding 0 leaves no minus at a zero.
        return f"{round(value, decimals) + 0:,.{decimals}f}" if math.isfinite(value) else DASH
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return format_value(value)


def _with_titles(table: pd.DataFrame, titles: LabelMap) -> pd.DataFrame:
    renamed = table.copy()
    for axis, title_of in titles.items():
        if axis in renamed.columns:
            renamed[axis] = [title_of.get(str(name), name) for name in renamed[axis]]
        if axis in renamed.index.names:
            renamed = renamed.rename(index=title_of, level=axis)
        if axis in renamed.columns.names:
            renamed = renamed.rename(columns=title_of, level=axis)
    return renamed


# -- images ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedImage:
    """An image file."""

    content: bytes  # its bytes
    kind: str  # `png` or `jpeg`, which is also its ending
    # Class and index of the image on each tile of a contact sheet, row by row; shorter where other
    # images follow them. Empty for other images.
    keys: tuple[tuple[int, int], ...] = ()
    columns: int = 1  # tiles in a row

    @property
    def data_uri(self) -> str:
        """The image as the `src` of an HTML image."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


def encode_image(image: Image.Image, kind: str) -> EncodedImage:
    """Encode an image as `png` (lossless) or `jpeg`."""
    options = {"optimize": True} if kind == "png" else _JPEG
    return EncodedImage(image_io.encode_image(image, kind, **options), kind)


def picture_html(picture: EncodedImage, alt: str) -> Markup:
    """Return an image as a piece of HTML."""
    return Markup('<img src="{}" alt="{}">').format(picture.data_uri, alt)


def save_picture(folder: Path, name: str, picture: EncodedImage) -> str:
    """Write an image into a run's `figures/` and return its path, relative to the run."""
    path = f"figures/{name}.{picture.kind}"
    fileio.write_bytes(folder / path, picture.content)
    return path


def thumbnails(images: Tensor, side: int) -> list[Image.Image]:
    """Return uint8 RGB images [N, 3, S, S], averaged down where they exceed a side in pixels."""
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    full = [Image.fromarray(image) for image in pixels]
    if side >= images.shape[-1]:
        return full
    return [image.resize((side, side), Image.Resampling.BOX) for image in full]


def image_kind(images: Tensor, side: int) -> str:
    """Return how images shown at a side are encoded: exactly, or as JPEG where averaged down."""
    return "jpeg" if side < images.shape[-1] else "png"


def contact_sheet(images: Tensor, *, columns: int, keys: Sequence[tuple[int, int]]) -> EncodedImage:
    """Lay uint8 RGB images [N, 3, S, S], N at least 1, out row by row, some 900 pixels wide.

    Small images are enlarged without smoothing, as PNG; large ones are averaged down, as JPEG.
    `keys` are those of `EncodedImage`.
    """
    side = SHEET_WIDTH // columns
    sheet = tile(thumbnails(images, side), columns)
    zoom = max(1, min(_MAX_ZOOM, side // images.shape[-1]))
    sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    picture = encode_image(sheet, image_kind(images, side))
    return replace(picture, keys=tuple(keys), columns=columns)


def tile(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay images of one size out in a grid, row by row, with grey gaps."""
    width, height = images[0].width + GAP, images[0].height + GAP
    rows = -(-len(images) // columns)
    size = (rows * height - GAP, columns * width - GAP, 3)
    sheet = Image.fromarray(np.full(size, _BACKGROUND, np.uint8))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * width, row * height))
    return sheet
