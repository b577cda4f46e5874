"""Pictures of a run's images, class by class."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit, method_units
from prism_nb.data.augment import epoch_params, render
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.distilled import DeviceImages, load_images, load_subset
from prism_nb.data.image_io import encode_image
from prism_nb.data.registry import open_dataset
from prism_nb.execution.pipeline import class_count
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.html import EncodedImage, Sprites, contact_sheet, sprites, thumbnails
from prism_nb.viz.style import method_styles
from prism_nb.viz.tables import (
    absent,
    class_label,
    image_table,
    method_title,
    with_distance,
    with_teacher_scores,
)

_MOST_CLASSES = 20
_MOST_SLOTS = 20


def gallery(run: Run, method: str) -> EncodedImage:
    """Return a picture with a row per class and a column per image slot, the first twenty of each.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
    """
    dataset = open_dataset(run.settings)
    return _sheet(run, load_subset(run, method, dataset, _shown(run, dataset)))


def views_sheet(run: Run, method: str, *, epoch: int) -> EncodedImage:
    """Return a picture of an epoch's views as a student is shown them, laid out as in `gallery`.

    Args:
        run: The run.
        method: A method.
        epoch: The epoch, from 0.
    """
    dataset, ipc = open_dataset(run.settings), run.settings.ipc
    pixels, _ = load_images(run, method, dataset)
    views = epoch_params(run.settings, len(pixels), epoch, torch.device("cpu"))
    rows = torch.tensor([c * ipc + image_index for c, image_index in _shown(run, dataset)])
    return _sheet(run, dataset.to_uint8(render(DeviceImages(pixels, dataset), views, rows)))


def _shown(run: Run, dataset: ImageDataset) -> list[tuple[int, int]]:
    """Return the class and slot of each picture."""
    classes = range(min(_MOST_CLASSES, len(dataset.classes)))
    return [
        (c, image_index)
        for c in classes
        for image_index in range(min(_MOST_SLOTS, run.settings.ipc))
    ]


def _sheet(run: Run, pixels: Tensor) -> EncodedImage:
    return contact_sheet(pixels, columns=min(_MOST_SLOTS, run.settings.ipc))


MAX_SCORED = 2000  # images that teachers look at for the sake of an order
_MOST_PIXELS = 24_000_000  # of a page: what a browser shows without delay
_READERS = 4
_BEGUN = {
    "imported": "imported: what these images began from is not known",
    "initial": "not optimised: these are the initial images",
}


@dataclass(frozen=True)
class SortOrder:
    """A way to sort images.

    Attributes:
        title: What it is called.
        columns: What decides, the first first.
        ascending: Whether low values come first.
        caption: How the first column's value is written below an image.
        missing: What is said where there is no value.
    """

    title: str
    columns: tuple[str, ...]
    ascending: bool = True
    caption: str = ""
    missing: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether the teachers have to look at the images first."""
        return bool({"own loss", "agree"} & set(self.columns))


ORDERS = {
    "image_index": SortOrder("class and slot", ()),
    "unit_loss": SortOrder(
        "loss of the unit (recorded)",
        ("logit loss", "BN loss"),
        caption="unit {:.3g}",
        missing="no losses are recorded of images that are not optimised",
    ),
    "own_loss": SortOrder(
        "loss of the image (primary, computed)",
        ("own loss",),
        caption="loss {:.3g}",
        missing="nothing to look at",
    ),
    "distance": SortOrder(
        "distance to the nearest training image",
        ("distance",),
        caption="d {:.3f}",
        missing="not measured yet: run notebook 03",
    ),
    "agreement": SortOrder(
        "agreement of the teachers",
        ("agree", "apart"),
        ascending=False,
        caption="{:.0f} % agree",
        missing="needs two teachers in the pool",
    ),
}


@dataclass(frozen=True)
class GalleryView:
    """The state of a gallery, without any widget.

    Attributes:
        methods: The sets of images side by side; `plans.diversity.REFERENCE` for real ones.
        classes: The classes whose images are shown.
        order: A name of `ORDERS`.
        reverse: Whether the order is turned around.
        page: Which page, from 0; beyond the last is the last.
        per_page: Images per method on a page.
        side: The side at which an image is shown, in screen pixels.
        before: Whether each image has its initial image beside it.
        network: Whose features the distance is measured in.
    """

    methods: tuple[str, ...]
    classes: tuple[int, ...]
    order: str = "image_index"
    reverse: bool = False
    page: int = 0
    per_page: int = 100
    side: int = 64
    before: bool = False
    network: str = ""


@dataclass(frozen=True)
class Panel:
    """One method's part of a page.

    Attributes:
        method: The method.
        title: What it is called.
        rows: A row per image shown: the columns of `image_tables`.
        count: Images in all, on every page.
        pages: Number of pages, at least 1.
        words: What is to be said, such as what is missing; empty where all is well.
        images: uint8 [n, 3, S, S], in the order of the rows.
        before: Their initial images; None where they are not asked for or not known.
    """

    method: str
    title: str
    rows: pd.DataFrame
    count: int
    pages: int
    words: str
    images: Tensor
    before: Tensor | None = None


def panels(run: Run, view: GalleryView) -> list[Panel]:
    """Return what a view shows, a panel per method; whatever is amiss is said in its words."""
    return [_panel(run, view, method) for method in view.methods]


def per_page(run: Run, view: GalleryView) -> int:
    """Return how many images of each method a page holds: as asked, or as many as can be shown."""
    size = min(view.side, open_dataset(run.settings).image_size)
    pictures = (1 + view.before) * max(1, len(view.methods))
    return max(1, min(view.per_page, _MOST_PIXELS // (size**2 * pictures)))


def _panel(run: Run, view: GalleryView, method: str) -> Panel:
    table, words = _sorted(run, view, method)
    made, size = table[table["made"]], per_page(run, view)
    if len(made) < len(table):
        words.insert(0, _unmade(run, method, table))
    pages = max(1, -(-len(made) // size))
    page = min(view.page, pages - 1)
    rows = made.iloc[page * size : (page + 1) * size].reset_index(drop=True)
    title, images, before = method_title(run, method), _none(run), None
    try:
        images = _read(run, method, _members(rows))
        if view.before:
            before, said = _before(run, method, rows)
            words += said
    except PrismError as error:
        words.append(str(error))
        rows, images = rows.iloc[:0], _none(run)
    return Panel(method, title, rows, len(made), pages, "; ".join(words), images, before)


def _sorted(run: Run, view: GalleryView, method: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a method's images in a view's order, and what is to be said of it."""
    order, table = ORDERS[view.order], image_table(run, method, view.classes)
    table = with_distance(table, run, method, view.network)
    if order.is_judged and len(table) > MAX_SCORED:
        return table, [
            f"in order of class and slot: teachers look at {MAX_SCORED} images at most for the "
            f"sake of an order, and these are {len(table)}; name fewer classes"
        ]
    try:
        table = with_teacher_scores(table, run, method) if order.is_judged else table
    except PrismError as error:
        return table, [f"in order of class and slot: {error}"]
    missing = order.missing
    if order.columns == ("distance",):
        missing = absent(run, [diversity_unit(run, method, class_count(run))], missing)
    return in_order(table, order, reverse=view.reverse), _unsorted(table, order, missing)


def in_order(table: pd.DataFrame, order: SortOrder, *, reverse: bool) -> pd.DataFrame:
    """Sort images; those of equal value stay in order of class and slot, those without come last.

    Args:
        table: What `image_tables` returns.
        order: The order.
        reverse: Whether it is turned around.
    """
    if not order.columns:
        return table.iloc[::-1] if reverse else table
    # The second column is for ties: less divergence is more agreement.
    ways = [order.ascending, *([True] * (len(order.columns) - 1))]
    return table.sort_values(
        [*order.columns, "class", "image_index"],
        ascending=[*(way != reverse for way in ways), True, True],
        na_position="last",
    )


def _unsorted(table: pd.DataFrame, order: SortOrder, missing: str) -> list[str]:
    made = table[table["made"]]
    if not order.columns or not len(made) or made[order.columns[0]].notna().any():
        return []
    return [f"in order of class and slot: {missing}"]


def _unmade(run: Run, method: str, table: pd.DataFrame) -> str:
    """Say how many images are there, and why the others are not."""
    made, names = table["made"].sum(), {*table.loc[~table["made"], "unit"]}
    units = [u for u in method_units(run, method, class_count(run)) if u.name in names]
    if not made:
        return absent(run, units, "no units yet: run notebook 02")
    are = f"{made} of {len(table)} images are"
    why = absent(run, units, "")
    return f"{are} there; {why}" if why else f"{are} made; notebook 02 makes the others"


def _before(run: Run, method: str, rows: pd.DataFrame) -> tuple[Tensor | None, list[str]]:
    if method == REFERENCE:
        return None, []
    how = run.settings.recipe_of(method).image_source
    if how != "optimized":
        return None, [_BEGUN[how]]
    if not len(rows):
        return None, []
    return initial_images_uint8(run, method, _members(rows)), []


def _read(run: Run, method: str, members: Sequence[tuple[int, int]]) -> Tensor:
    """Read images with several threads, since a file's pixels are decoded beside Python."""
    dataset = open_dataset(run.settings)
    if not members:
        return _none(run)
    if method == REFERENCE:
        return load_subset(run, method, dataset, members)
    share = -(-len(members) // _READERS)
    parts = [members[start : start + share] for start in range(0, len(members), share)]
    with ThreadPoolExecutor(_READERS) as readers:
        return torch.cat(list(readers.map(lambda p: load_subset(run, method, dataset, p), parts)))


def _none(run: Run) -> Tensor:
    size = open_dataset(run.settings).image_size
    return torch.empty(0, 3, size, size, dtype=torch.uint8)


def _members(rows: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(rows["class"].to_list(), rows["image_index"].to_list(), strict=True))


_TOLD = 230  # pixels; how wide the words on an image are at most
_STYLE = """<style>
.prism-gallery { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.prism-panel { flex: 0 0 max(180px, %(tile)dpx, %(width)s); }
.prism-panel h4 { margin: 0 0 4px; padding-left: 8px; font-size: 14px; line-height: 1.3; }
.prism-panel p { margin: 0 0 6px; font-size: 12px; line-height: 1.3; opacity: .8; }
.prism-tiles { display: flex; flex-wrap: wrap; gap: 5px; }
.prism-tiles figure { margin: 0; line-height: 1.1; position: relative; }
.prism-tiles figure:focus-visible { outline: 2px solid #4477AA; outline-offset: 1px; }
.prism-tiles figure:hover::after, .prism-tiles figure:focus::after { content: attr(aria-label);
  position: absolute; z-index: 5; bottom: 100%%; left: 0; width: max-content; max-width: %(told)dpx;
  padding: 4px 7px; font-size: 12px; line-height: 1.35; white-space: pre-wrap;
  pointer-events: none; color: var(--jp-ui-font-color1, #222);
  background: var(--jp-layout-color1, #fff); border: 1px solid var(--jp-border-color1, #bbb); }
.prism-panel:last-child:not(:first-child) figure::after { left: auto !important; right: 0; }
.prism-panel:only-child .prism-tiles { padding-right: %(told)dpx; }
.prism-tiles figure div { display: flex; gap: 1px; }
.prism-tiles i { width: %(side)dpx; height: %(side)dpx; image-rendering: pixelated; }
.prism-tiles figcaption { font-size: 10px; text-align: center; white-space: pre; opacity: .85; }
</style>"""


def gallery_html(panels: Sequence[Panel], view: GalleryView, classes: Sequence[ClassInfo]) -> str:
    """Return a page of a gallery.

    Every image has a caption, and above it, while the pointer is over it or the keyboard at it,
    all that is known of it. Images are neither smoothed nor recoloured; those larger than they are
    shown are averaged.

    Args:
        panels: The result of `gallery_view.panels`.
        view: What they show.
        classes: The dataset's.
    """
    if not panels:
        return "<p>Choose at least one method.</p>"
    beside = min(4, len(panels))
    width = f"calc((100% - {18 * (beside - 1)}px) / {beside} - 1px)"
    tile = view.side * max(1 + (panel.before is not None) for panel in panels) + 1
    style = _STYLE % {"width": width, "side": view.side, "tile": tile, "told": _TOLD}
    looks = method_styles(panel.method for panel in panels)
    parts = [
        _panel_html(panel, view, classes, place, looks[panel.method].colour)
        for place, panel in enumerate(panels)
    ]
    return f'{style}<div class="prism-gallery">{"".join(parts)}</div>'


def _panel_html(
    panel: Panel, view: GalleryView, classes: Sequence[ClassInfo], place: int, colour: str
) -> str:
    head = (
        f'<h4 style="border-left: 6px solid {colour}">{html.escape(panel.title)} '
        f'<span style="font-weight: normal">· {_count(panel)}</span></h4>'
    )
    words = f"<p>{html.escape(panel.words)}</p>" if panel.words else ""
    tiles = _tiles_html(panel, view, classes, place) if len(panel.rows) else ""
    return f'<section class="prism-panel">{head}{words}{tiles}</section>'


def _count(panel: Panel) -> str:
    shown, plural = len(panel.rows), "s" * (panel.count != 1)
    part = f"{shown} of " if shown < panel.count else ""
    beside = ", initial ones left of them" if panel.before is not None else ""
    return f"{part}{panel.count} image{plural}{beside}"


def _tiles_html(panel: Panel, view: GalleryView, classes: Sequence[ClassInfo], place: int) -> str:
    both = [panel.images] if panel.before is None else [panel.before, panel.images]
    sheet, count = sprites(torch.cat(both), view.side), len(panel.rows)
    name = f"prism-sheet-{place}"
    tiles = []
    for i, row in enumerate(panel.rows.to_dict("records")):
        told = html.escape(image_tooltip(row, classes[row["class"]]), quote=True)
        places = [_offset(sheet, i + k * count, view.side) for k in range(len(both))]
        cut = "".join(f'<i class="{name}" style="background-position:{at}"></i>' for at in places)
        caption = html.escape(image_caption(row, view))
        tiles.append(
            f'<figure role="img" tabindex="0" aria-label="{told}"><div>{cut}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'{_sheet_style(sheet, name, view.side)}<div class="prism-tiles">{"".join(tiles)}</div>'


def _sheet_style(sheet: Sprites, name: str, side: int) -> str:
    data = base64.b64encode(sheet.picture).decode()
    size = f"{sheet.columns * side}px {sheet.rows * side}px"
    return (
        f"<style>.{name} {{ background-size: {size}; "
        f"background-image: url(data:image/{sheet.kind};base64,{data}) }}</style>"
    )


def _offset(sheet: Sprites, index: int, side: int) -> str:
    row, column = sheet.place(index)
    return f"-{column * side}px -{row * side}px"


def image_caption(row: dict[str, object], view: GalleryView) -> str:
    """Return the words below an image: class and slot, and the value that it is sorted by."""
    order = ORDERS[view.order]
    value = row.get(order.columns[0]) if order.columns else None
    place = (
        f"image {row['image_index']}"
        if len(view.classes) == 1
        else f"{row['class']} · {row['image_index']}"
    )
    if isinstance(value, float) and not math.isnan(value):
        return f"{place}\n{order.caption.format(value)}"
    return place


def image_tooltip(row: dict[str, object], info: ClassInfo) -> str:
    """Return all that is known of an image, in lines."""
    lines = [f"class {class_label(info)}, image {row['image_index']}"]
    for name, form in _LINES.items():
        value = row.get(name)
        if value is not None and value != "" and not pd.isna(value):
            lines.append(form.format(value))
    return "\n".join(lines)


_LINES = {
    "unit": "unit {}",
    "teachers": "BN teachers of the unit: {}",
    "logit loss": "last logit loss of the unit: {:.4g} nats",
    "BN loss": "last BN loss of the unit, mean over networks: {:.4g}",
    "own loss": "cross-entropy of the primary on this image: {:.4g} nats",
    "agree": "pairs of teachers that agree: {:.0f} %",
    "apart": "divergence of the teachers: {:.3f} nats",
    "distance": "distance to the nearest training image: {:.4f} (0 to 2)",
}

GAP = 2  # pixels between images
HEAD = 22  # height of a title
_PAPER = (255, 255, 255)
_WIDTH = 1200  # pixels, about
_MOST = 8  # times that a page is enlarged, at most


def contact_sheet_png(panels: Sequence[Panel], view: GalleryView) -> EncodedImage:
    """Return what a gallery shows as a PNG, panels one below the other.

    Where an image is shown at a multiple of its own side, its pixels are repeated and nothing
    else; with initial images, each stands left of its image.

    Args:
        panels: The result of `gallery_view.panels`.
        view: What they show.
    """
    looks = method_styles(panel.method for panel in panels)
    strips = [_strip(panel, view, looks[panel.method].colour) for panel in panels]
    sheet = Image.new(
        "RGB", (max((s.width for s in strips), default=1), sum(s.height for s in strips)), _PAPER
    )
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return EncodedImage(encode_image(sheet, optimize=True), "png")


def _strip(panel: Panel, view: GalleryView, colour: str) -> Image.Image:
    tiles = _tiles(panel, view)
    step = (tiles[0].shape[1] if tiles else 0) + GAP
    columns = max(1, _WIDTH // step)
    high = (tiles[0].shape[0] + GAP) * -(-len(tiles) // columns) if tiles else 0
    strip = Image.new("RGB", (max(260, min(columns, len(tiles)) * step), HEAD + high + GAP), _PAPER)
    _title(strip, panel.title, colour)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        strip.paste(Image.fromarray(tile), (column * step, HEAD + row * (tile.shape[0] + GAP)))
    return strip


def _title(strip: Image.Image, title: str, colour: str) -> None:
    draw = ImageDraw.Draw(strip)
    draw.rectangle((0, 3, 6, HEAD - 5), fill=colour)
    font = ImageFont.load_default(14)
    draw.text((12, 2), title, fill=(30, 30, 30), font=font)


def _tiles(panel: Panel, view: GalleryView) -> list[np.ndarray]:
    """Return the images as they are shown, each with its initial image to the left if there is."""
    if not len(panel.rows):
        return []
    shown = _enlarged(thumbnails(panel.images, view.side), view.side)
    if panel.before is None:
        return shown
    before = _enlarged(thumbnails(panel.before, view.side), view.side)
    return [np.hstack(pair) for pair in zip(before, shown, strict=True)]


def _enlarged(tiles: Sequence[np.ndarray], side: int) -> list[np.ndarray]:
    times = max(1, min(_MOST, side // tiles[0].shape[0]))
    return [tile.repeat(times, axis=0).repeat(times, axis=1) for tile in tiles]


def near_duplicate_sheet(
    run: Run, method: str, nearest: pd.DataFrame, *, most: int = 12
) -> EncodedImage:
    """Return a picture of a method's images that lie nearest to training images, above those.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
        nearest: The result of `diversity_tables.nearest_table`.
        most: Pairs that are shown.

    Raises:
        ValueError: No pair of the method is known.
    """
    mine = nearest[nearest["method"] == method].head(most)
    if not len(mine):
        raise ValueError(f"no nearest training image is known for {method!r}")
    dataset = open_dataset(run.settings)
    members = list(zip(mine["class"].to_list(), mine["image_index"].to_list(), strict=True))
    made = load_subset(run, method, dataset, members)
    real = dataset.images("train", mine["training image"].to_list())
    return contact_sheet(torch.cat([made, real]), columns=len(mine))
