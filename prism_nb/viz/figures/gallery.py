"""Images of a run: contact sheets, and pages of a sortable gallery."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit
from prism_nb.data.augment import epoch_params, render
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.distilled import DeviceImages, load_images, load_subset
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import teacher_scores
from prism_nb.execution.pipeline import class_count
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.html import (
    SHEET_WIDTH,
    EncodedImage,
    contact_sheet,
    encode_image,
    image_kind,
    render_page,
    thumbnails,
    tile,
)
from prism_nb.viz.style import Legend
from prism_nb.viz.tables import (
    class_label,
    image_keys,
    image_table,
    method_titles,
    nearest_table,
)

_MAX_SHEET = 20  # classes, and images of a class, on a contact sheet
_MAX_PAIRS = 12  # of an image and its nearest training image
MAX_SCORED = 2000  # images that are run through the teachers to sort them
MAX_PAGE_PIXELS = 24_000_000  # of all images of a page: a browser shows that many without delay
_TITLE_HEIGHT = 22  # pixels, on a saved page
_TEXT = "#1e1e1e"
_INITIAL = {
    "imported": "imported: the initial images are not known",
    "initial": "not optimised: these are the initial images",
}
_DETAILS = {
    "unit": "unit {}",
    "teachers": "BN teachers of the unit: {}",
    "logit loss": "last logit loss of the unit: {:.4g} nats",
    "BN loss": "last BN loss of the unit, mean over networks: {:.4g}",
    "own loss": "cross-entropy of the primary on this image: {:.4g} nats",
    "agree": "pairs of teachers that agree: {:.0f} %",
    "apart": "divergence of the teachers: {:.3f} nats",
    "distance": "distance to the nearest training image: {:.4f} (0 to 2)",
}


def image_sheet(run: Run, method: str) -> EncodedImage:
    """Return a contact sheet of a method: a row per class, a column per image, 20 of each at most.

    Args:
        run: The run.
        method: A method, `REFERENCE` for real images.
    """
    dataset = open_dataset(run.settings)
    images = load_subset(run, method, dataset, _sheet_keys(run, dataset))
    return contact_sheet(images, columns=min(_MAX_SHEET, run.settings.ipc))


def view_sheet(run: Run, method: str, epoch: int = 0) -> EncodedImage:
    """Return an epoch's augmented views, as a student gets them, laid out as in `image_sheet`."""
    dataset, ipc = open_dataset(run.settings), run.settings.ipc
    pixels, _ = load_images(run, method, dataset)
    params = epoch_params(run.settings, len(pixels), epoch, torch.device("cpu"))
    rows = torch.tensor([c * ipc + index for c, index in _sheet_keys(run, dataset)])
    views = dataset.to_uint8(render(DeviceImages(pixels, dataset), params, rows))
    return contact_sheet(views, columns=min(_MAX_SHEET, ipc))


def _sheet_keys(run: Run, dataset: ImageDataset) -> list[tuple[int, int]]:
    classes = range(min(_MAX_SHEET, len(dataset.classes)))
    return [(c, i) for c in classes for i in range(min(_MAX_SHEET, run.settings.ipc))]


def near_duplicate_sheet(run: Run, method: str, network: str | None = None) -> EncodedImage | None:
    """Return the images nearest to a training image of their class, above those training images.

    Args:
        run: The run.
        method: A method, `REFERENCE` for real images.
        network: The feature network; the first where None.

    Returns:
        The sheet; None where no distance is defined.
    """
    nearest = nearest_table(run, network or run.settings.feature_networks_used[0])
    pairs = nearest[nearest["method"] == method].head(_MAX_PAIRS)
    if not len(pairs):
        return None
    dataset = open_dataset(run.settings)
    images = load_subset(run, method, dataset, image_keys(pairs))
    real = dataset.images("train", pairs["training image"].to_list())
    return contact_sheet(torch.cat([images, real]), columns=len(pairs))


@dataclass(frozen=True)
class SortOrder:
    """A way to sort images.

    Attributes:
        title: Its name for people.
        columns: Columns of the image table to sort by; the second breaks ties.
        ascending: Whether low values of the first column come first.
        caption: Format of the first column's value below an image.
    """

    title: str
    columns: tuple[str, ...]
    ascending: bool = True
    caption: str = ""


ORDERS = {
    "image_index": SortOrder("class and index", ()),
    "unit_loss": SortOrder(
        "loss of the unit (recorded)",
        ("logit loss", "BN loss"),
        caption="unit {:.3g}",
    ),
    "own_loss": SortOrder(
        "loss of the image (primary, computed)", ("own loss",), caption="loss {:.3g}"
    ),
    "distance": SortOrder(
        "distance to the nearest training image",
        ("distance",),
        caption="d {:.3f}",
    ),
    "agreement": SortOrder(
        "agreement of the teachers",
        ("agree", "apart"),
        ascending=False,
        caption="{:.0f} % agree",
    ),
}


@dataclass(frozen=True)
class GalleryView:
    """The state of a gallery.

    Attributes:
        methods: Methods side by side, `REFERENCE` for real images.
        classes: Class indices.
        order: A name of `ORDERS`.
        reverse: Whether the order is reversed.
        page: Page, from 0; past the end, the last one.
        per_page: Images of each method on a page.
        side: Side of a shown image, in screen pixels.
        before: Whether initial images are shown too.
        network: Feature network of the distances.
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
        title: Its title.
        rows: A row per image on the page: the columns of `tables.image_table` and the sort values.
        count: Images on all pages.
        pages: Number of pages, at least 1.
        note: What is missing and why; empty where nothing is.
        images: uint8 [n, 3, S, S], a row each.
        before: Their initial images; None where not requested or unknown.
    """

    method: str
    title: str
    rows: pd.DataFrame
    count: int
    pages: int
    note: str
    images: Tensor
    before: Tensor | None = None


def panels(run: Run, view: GalleryView) -> list[Panel]:
    """Return a page of a gallery, a panel per method; what is missing is in its note."""
    return [_panel(run, view, method) for method in view.methods]


def per_page(run: Run, view: GalleryView) -> int:
    """Return the number of images of each method on a page, within a browser's limits."""
    size = min(view.side, open_dataset(run.settings).image_size)
    shown = (1 + view.before) * max(1, len(view.methods))
    return max(1, min(view.per_page, MAX_PAGE_PIXELS // (size**2 * shown)))


def _panel(run: Run, view: GalleryView, method: str) -> Panel:
    table, notes = _sorted_images(run, view, method)
    made, size = table[table["made"]], per_page(run, view)
    if len(made) < len(table):
        count = f"{len(made)} of {len(table)} images"
        notes.insert(0, f"{count}; the others are missing or damaged: run notebook 02")
    pages = max(1, -(-len(made) // size))
    page = min(view.page, pages - 1)
    rows = made.iloc[page * size : (page + 1) * size].reset_index(drop=True)
    dataset, before = open_dataset(run.settings), None
    images = torch.empty(0, 3, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    try:
        if len(rows):
            images = load_subset(run, method, dataset, image_keys(rows))
        if view.before and method != REFERENCE:
            source = run.settings.recipe_of(method).image_source
            if source in _INITIAL:
                notes.append(_INITIAL[source])
            elif len(rows):
                before = initial_images_uint8(run, method, image_keys(rows))
    except PrismError as error:
        notes.append(str(error))
        rows, images = rows.iloc[:0], images[:0]
    title = method_titles(run)[method]
    return Panel(method, title, rows, len(made), pages, "; ".join(notes), images, before)


def _sorted_images(run: Run, view: GalleryView, method: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a method's images in a view's order, and why they are not, if they are not."""
    order, table = ORDERS[view.order], image_table(run, method, view.classes)
    unit = diversity_unit(run, method, class_count(run))
    table = table.assign(distance=_distances(run, table, run.units.marker(unit), view.network))
    if "own loss" in order.columns or "agree" in order.columns:
        if len(table) > MAX_SCORED:
            return table, [
                f"in order of class and index: teachers score {MAX_SCORED} images at most, and "
                f"these are {len(table)}; choose fewer classes"
            ]
        try:
            table = _with_teacher_scores(table, run, method)
        except PrismError as error:
            return table, [f"in order of class and index: {error}"]
    sorted_table = sort_images(table, order, reverse=view.reverse)
    made = table[table["made"]]
    if not order.columns or not len(made) or made[order.columns[0]].notna().any():
        return sorted_table, []
    return sorted_table, [f"in order of class and index: no {order.title} is known"]


def sort_images(table: pd.DataFrame, order: SortOrder, *, reverse: bool) -> pd.DataFrame:
    """Sort images; ties stay in order of class and index, images without a value come last."""
    if not order.columns:
        return table.iloc[::-1] if reverse else table
    ascending = [order.ascending != reverse, *([not reverse] * (len(order.columns) - 1))]
    return table.sort_values(
        [*order.columns, "class", "image_index"],
        ascending=[*ascending, True, True],
        na_position="last",
    )


def _distances(
    run: Run, table: pd.DataFrame, marker: dict[str, Any] | None, network: str
) -> pd.Series:
    """Return each image's distance to the nearest training image, NaN where not measured."""
    space = marker["record"]["spaces"].get(network) if marker else None
    if space is None:
        return pd.Series(float("nan"), table.index)
    distances, ipc = space["nearest_real"]["distance"], run.settings.ipc
    found = [distances[c * ipc + index] for c, index in image_keys(table)]
    return pd.Series(found, table.index, dtype=float)


def _with_teacher_scores(table: pd.DataFrame, run: Run, method: str) -> pd.DataFrame:
    """Add `own loss`, `agree` (percent) and `apart` of each image, see `TeacherScores`."""
    made = table[table["made"]]
    if not len(made):
        return table.assign(**{"own loss": float("nan"), "agree": float("nan"), "apart": 0.0})
    pixels = load_subset(run, method, open_dataset(run.settings), image_keys(made))
    found = teacher_scores(run, pixels, torch.tensor(made["class"].to_list()))
    columns = {"own loss": found.loss, "agree": 100 * found.agreement, "apart": found.js_divergence}
    scores = {name: values.numpy() for name, values in columns.items()}
    return table.join(pd.DataFrame(scores, index=made.index))


def gallery_html(panels: Sequence[Panel], view: GalleryView, classes: Sequence[ClassInfo]) -> str:
    """Return a page of a gallery; what is known of an image is on hover.

    Images are neither smoothed nor recoloured; those larger than shown are averaged down.

    Args:
        panels: The result of `panels`.
        view: The view that they are of.
        classes: The dataset's classes.
    """
    if not panels:
        return "<p>Choose at least one method.</p>"
    legend = _legend(panels)
    shown = [
        {
            "title": panel.title,
            "colour": legend.color(panel.method),
            "count": _count(panel),
            "note": panel.note,
            "tiles": _tiles(panel, view, classes),
        }
        for panel in panels
    ]
    return render_page("gallery.html", panels=shown, side=view.side, columns=min(4, len(panels)))


def _legend(panels: Sequence[Panel]) -> Legend:
    return Legend({panel.method: panel.title for panel in panels})


def _count(panel: Panel) -> str:
    shown = len(panel.rows)
    part = f"{shown} of " if shown < panel.count else ""
    before = ", each after its initial image" if panel.before is not None else ""
    return f"{part}{panel.count} image{'s' * (panel.count != 1)}{before}"


def _tiles(panel: Panel, view: GalleryView, classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    sources = [
        [encode_image(image, image_kind(pixels, view.side)).data_uri for image in images]
        for pixels, images in _shown_images(panel, view)
    ]
    rows = panel.rows.to_dict("records")
    return [
        {
            "caption": image_caption(row, view),
            "details": image_details(row, classes[row["class"]]),
            "sources": list(both),
        }
        for row, *both in zip(rows, *sources, strict=True)
    ]


def _shown_images(panel: Panel, view: GalleryView) -> list[tuple[Tensor, list[Image.Image]]]:
    """Return the panel's initial images, if any, and its images, at the size to send."""
    both = [panel.images] if panel.before is None else [panel.before, panel.images]
    return [(pixels, thumbnails(pixels, view.side)) for pixels in both]


def image_caption(row: dict[str, Any], view: GalleryView) -> str:
    """Return the text below an image: class and index, and the value that it is sorted by."""
    order = ORDERS[view.order]
    value = row.get(order.columns[0]) if order.columns else None
    index = row["image_index"]
    place = f"image {index}" if len(view.classes) == 1 else f"{row['class']} · {index}"
    if isinstance(value, float) and not math.isnan(value):
        return f"{place}\n{order.caption.format(value)}"
    return place


def image_details(row: dict[str, Any], info: ClassInfo) -> str:
    """Return all that is known of an image, in lines."""
    lines = [f"class {class_label(info)}, image {row['image_index']}"]
    for name, form in _DETAILS.items():
        value = row.get(name)
        if value is not None and value != "" and not pd.isna(value):
            lines.append(form.format(value))
    return "\n".join(lines)


def gallery_sheet(panels: Sequence[Panel], view: GalleryView) -> EncodedImage:
    """Return a page of a gallery as PNG, panels one below the other.

    Where an image is shown at a multiple of its own side, its pixels are repeated.
    """
    legend = _legend(panels)
    strips = [_strip(panel, view, legend.color(panel.method)) for panel in panels]
    width, height = max(s.width for s in strips), sum(s.height for s in strips)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return encode_image(sheet, "png")


def _strip(panel: Panel, view: GalleryView, colour: str) -> Image.Image:
    """Return a panel's title above its images, each after its initial image, if any."""
    sets = [images for _, images in _shown_images(panel, view)]
    pairs = [image for both in zip(*sets, strict=True) for image in both]
    zoom = max(1, view.side // panel.images.shape[-1])
    shown = [i.resize((zoom * i.width, zoom * i.height), Image.Resampling.NEAREST) for i in pairs]
    columns = max(1, SHEET_WIDTH // (view.side * len(sets))) * len(sets)
    grid = tile(shown, min(columns, len(shown))) if shown else Image.new("RGB", (1, 1))
    strip = Image.new("RGB", (max(260, grid.width), _TITLE_HEIGHT + grid.height + 4), "white")
    strip.paste(grid, (0, _TITLE_HEIGHT))
    draw = ImageDraw.Draw(strip)
    draw.rectangle((0, 3, 6, _TITLE_HEIGHT - 5), fill=colour)
    draw.text((12, 2), panel.title, fill=_TEXT, font=ImageFont.load_default(14))
    return strip
