"""Images of a run: contact sheets, and pages of a sortable gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit
from prism_nb.data.augment import epoch_params, render
from prism_nb.data.distilled import DeviceImages, load_images, load_subset
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import cached, logits_of
from prism_nb.diversity.metrics import js_divergence
from prism_nb.execution.pipeline import class_count
from prism_nb.models.pool import load_teacher
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.classes import class_names
from prism_nb.viz.html import (
    SHEET_WIDTH,
    Deck,
    EncodedImage,
    contact_sheet,
    encode_image,
    image_kind,
    render_page,
    thumbnails,
    tile,
)
from prism_nb.viz.inspector import PAGE_BYTES, deck_json, image_deck
from prism_nb.viz.style import Legend
from prism_nb.viz.tables import image_keys, image_table, method_titles, nearest_table

_MAX_SHEET = 20  # classes, and images of a class, on a contact sheet
_MAX_COMPARED = 10  # classes of a comparison of methods
_MAX_PAIRS = 12  # of an image and its nearest training image
MAX_SCORED = 2000  # images that are run through the teachers to sort them
MAX_PAGE_PIXELS = 24_000_000  # of all images of a page: a browser shows that many without delay
_TITLE_HEIGHT = 22  # pixels, on a saved page


# -- contact sheets --------------------------------------------------------------------------


def image_sheet(run: Run, method: str) -> EncodedImage:
    """Return a contact sheet of a method or `REFERENCE`: a row per class, 20 of 20 at most."""
    keys = _sheet_keys(run)
    images = load_subset(run, method, open_dataset(run.settings), keys)
    return contact_sheet(images, columns=min(_MAX_SHEET, run.settings.ipc), keys=keys)


def sheet_classes(run: Run) -> list[str]:
    """Return the names of the classes of an `image_sheet`, from above."""
    return class_names(run)[:_MAX_SHEET]


def comparison_sheet(run: Run) -> EncodedImage:
    """Return the first image of each of ten classes at most: a titled row per set of images."""
    keys = [(c, 0) for c in range(min(_MAX_COMPARED, class_count(run)))]
    side, dataset = SHEET_WIDTH // len(keys), open_dataset(run.settings)
    sets = {
        title: load_subset(run, name, dataset, keys) for name, title in method_titles(run).items()
    }
    grids = {title: tile(_scaled(images, side), len(keys)) for title, images in sets.items()}
    return encode_image(_titled(grids), image_kind(next(iter(sets.values())), side))


def view_sheet(run: Run, method: str, epoch: int = 0) -> EncodedImage:
    """Return an epoch's augmented views, as a student gets them, laid out as in `image_sheet`."""
    dataset, ipc, keys = open_dataset(run.settings), run.settings.ipc, _sheet_keys(run)
    pixels, _ = load_images(run, method, dataset)
    params = epoch_params(run.settings, len(pixels), epoch, torch.device("cpu"))
    rows = torch.tensor([c * ipc + index for c, index in keys])
    views = dataset.to_uint8(render(DeviceImages(pixels, dataset), params, rows))
    return contact_sheet(views, columns=min(_MAX_SHEET, ipc), keys=keys)


def _sheet_keys(run: Run) -> list[tuple[int, int]]:
    classes = range(min(_MAX_SHEET, class_count(run)))
    return [(c, i) for c in classes for i in range(min(_MAX_SHEET, run.settings.ipc))]


def near_duplicate_sheet(run: Run, method: str, network: str) -> EncodedImage | None:
    """Return the images nearest to a training image of their class, above those training images.

    Near in the features of a network; None where no distance is defined.
    """
    nearest = nearest_table(run, network)
    pairs = nearest[nearest["method"] == method].head(_MAX_PAIRS)
    if not len(pairs):
        return None
    dataset, keys = open_dataset(run.settings), image_keys(pairs)
    images = load_subset(run, method, dataset, keys)
    real = dataset.images("train", pairs["training image"].to_list())
    return contact_sheet(torch.cat([images, real]), columns=len(pairs), keys=keys)


# -- the gallery -----------------------------------------------------------------------------


class SortOrder(NamedTuple):
    """A way to sort images: by a column of a panel's rows, low values first."""

    title: str  # its name for people
    column: str = ""  # the column; empty for the order of class and index
    caption: str = ""  # format of the value below an image


ORDERS = {
    "image_index": SortOrder("class and index"),
    "unit_loss": SortOrder("loss of the unit (recorded)", "logit loss", "unit {:.3g}"),
    "own_loss": SortOrder("loss of the image (primary, computed)", "own loss", "loss {:.3g}"),
    "distance": SortOrder("distance to the nearest training image", "distance", "d {:.3f}"),
    "agreement": SortOrder("agreement of the teachers", "divergence", "JS {:.3f}"),
}


@dataclass(frozen=True)
class GalleryView:
    """The state of a gallery."""

    methods: tuple[str, ...]  # methods side by side, `REFERENCE` for real images
    classes: tuple[int, ...]  # class indices
    order: str = "image_index"  # a name of `ORDERS`
    reverse: bool = False  # whether the order is reversed
    page: int = 0  # page, from 0; past the end, the last one
    per_page: int = 100  # images of each method on a page
    side: int = 64  # side of a shown image, in screen pixels
    before: bool = False  # whether initial images are shown too
    network: str = ""  # feature network of the distances


@dataclass(frozen=True)
class Panel:
    """One method's part of a page."""

    method: str
    title: str
    # A row per image on the page: the columns of `tables.image_table` and the sort values
    rows: pd.DataFrame
    count: int  # images on all pages
    pages: int  # number of pages, at least 1
    note: str  # what is missing and why; empty where nothing is
    images: Tensor  # uint8 [n, 3, S, S], a row each
    before: Tensor | None = None  # their initial images; None where not requested or unknown

    @property
    def image_sets(self) -> list[Tensor]:
        """The initial images, if any, and the images."""
        return [self.images] if self.before is None else [self.before, self.images]


def panels(run: Run, view: GalleryView) -> list[Panel]:
    """Return a page of a gallery, a panel per method; what is missing is in its note."""
    return [_panel(run, view, method) for method in view.methods]


def per_page(run: Run, view: GalleryView) -> int:
    """Return the number of images of each method on a page, within a browser's limits."""
    size = min(view.side, open_dataset(run.settings).image_size)
    shown = (1 + view.before) * max(1, len(view.methods))
    return max(1, min(view.per_page, MAX_PAGE_PIXELS // (size**2 * shown)))


def _panel(run: Run, view: GalleryView, method: str) -> Panel:
    table, notes = image_table(run, method, view.classes), []
    made, size = table[table["made"]], per_page(run, view)
    if len(made) < len(table):
        count = f"{len(made)} of {len(table)} images"
        notes.append(f"{count}; the others are missing or damaged: run notebook 02")
    try:
        made = _sorted(run, view, method, made)
    except PrismError as error:
        notes.append(f"in order of class and index: {error}")
    pages = max(1, -(-len(made) // size))
    first = size * min(view.page, pages - 1)
    rows = made.iloc[first : first + size].reset_index(drop=True)
    dataset, before = open_dataset(run.settings), None
    try:
        images = load_subset(run, method, dataset, image_keys(rows))
        if view.before and method != REFERENCE and len(rows):
            if run.settings.recipe_of(method).image_source == "optimized":
                before = initial_images_uint8(run, method, image_keys(rows))
            else:
                notes.append("not optimised, so there are no other initial images")
    except PrismError as error:
        notes.append(str(error))
        rows = rows.iloc[:0]
        images = torch.empty(0, 3, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    title = method_titles(run)[method]
    return Panel(method, title, rows, len(made), pages, "; ".join(notes), images, before)


def _sorted(run: Run, view: GalleryView, method: str, made: pd.DataFrame) -> pd.DataFrame:
    """Return a method's images in a view's order.

    Raises:
        PrismError: Their values are not known, or cannot be computed.
    """
    order, made = ORDERS[view.order], made.assign(distance=_distances(run, view, method, made))
    if len(made) and order.column in {"own loss", "divergence"}:
        made = made.assign(**_teacher_scores(run, method, made))
    if order.column and len(made) and made[order.column].isna().all():
        raise UsageError(f"no {order.title} is known")
    return sort_images(made, order, reverse=view.reverse)


def sort_images(table: pd.DataFrame, order: SortOrder, *, reverse: bool) -> pd.DataFrame:
    """Sort images; ties stay in order of class and index, images without a value come last."""
    if not order.column:
        return table.iloc[::-1] if reverse else table
    return table.sort_values(
        [order.column, "class", "image_index"], ascending=[not reverse, True, True]
    )


def _distances(run: Run, view: GalleryView, method: str, made: pd.DataFrame) -> list[float]:
    """Return each image's distance to the nearest training image, NaN where not measured."""
    marker = run.units.marker(diversity_unit(run, method, class_count(run)))
    if marker is None or view.network not in marker["record"]["spaces"]:
        return [float("nan")] * len(made)
    found = marker["record"]["spaces"][view.network]["nearest_real"]["distance"]
    values = pd.Series(found, dtype=float)
    return values.iloc[made["class"] * run.settings.ipc + made["image_index"]].to_list()


def _teacher_scores(run: Run, method: str, made: pd.DataFrame) -> dict[str, Any]:
    """Return the primary's cross-entropy with each image's class, and the teachers' divergence."""
    if len(made) > MAX_SCORED:
        raise UsageError(
            f"teachers score {MAX_SCORED} images at most, and these are {len(made)}; choose fewer "
            "classes"
        )
    dataset, names = open_dataset(run.settings), run.settings.pool.logits
    pixels = load_subset(run, method, dataset, image_keys(made))
    logits = torch.stack(
        [cached(logits_of, load_teacher(run, name), pixels, dataset) for name in names]
    )
    primary = logits[names.index(run.settings.primary)].double()
    classes = torch.tensor(made["class"].to_list())
    loss = functional.cross_entropy(primary, classes, reduction="none")
    return {"own loss": loss.numpy(), "divergence": js_divergence(logits).numpy()}


def gallery_html(run: Run, panels: Sequence[Panel], view: GalleryView) -> str:
    """Return the page of some panels, whose images open the inspector.

    Images are neither smoothed nor recoloured; those larger than shown are averaged down.
    """
    if not panels:
        return "<p>Choose at least one method.</p>"
    legend = Legend({panel.method: panel.title for panel in panels})
    shown = [
        {
            "title": panel.title,
            "colour": legend.color(panel.method),
            "count": _count(panel),
            "note": panel.note,
            "tiles": _tiles(panel, view),
            "deck": deck_json(_deck(run, panel, view, PAGE_BYTES // len(panels))),
        }
        for panel in panels
    ]
    return render_page("gallery.html", panels=shown, side=view.side, columns=min(4, len(panels)))


def _deck(run: Run, panel: Panel, view: GalleryView, room: int) -> Deck:
    keys = [(panel.method, *key) for key in image_keys(panel.rows)]
    network, before = view.network, panel.before
    return image_deck(run, keys, panel.images, network=network, before=before, room=room)


def _count(panel: Panel) -> str:
    part = f"{len(panel.rows)} of " if len(panel.rows) < panel.count else ""
    before = ", each after its initial image" if panel.before is not None else ""
    return f"{part}{panel.count} image{'s' * (panel.count != 1)}{before}"


def _tiles(panel: Panel, view: GalleryView) -> list[dict[str, Any]]:
    kind = image_kind(panel.images, view.side)
    sources = [
        [encode_image(image, kind).data_uri for image in thumbnails(images, view.side)]
        for images in panel.image_sets
    ]
    return [
        {
            "caption": _caption(row, view),
            "name": f"{panel.title}, class {row['class']}, image {row['image_index']}",
            "sources": both,
        }
        for row, *both in zip(panel.rows.to_dict("records"), *sources, strict=True)
    ]


def _caption(row: dict[str, Any], view: GalleryView) -> str:
    """Return the text below an image: class and index, and the value that it is sorted by."""
    order, index = ORDERS[view.order], row["image_index"]
    place = f"image {index}" if len(view.classes) == 1 else f"{row['class']} · {index}"
    value = row.get(order.column)
    return place if pd.isna(value) else f"{place}\n{order.caption.format(value)}"


def gallery_sheet(panels: Sequence[Panel], view: GalleryView) -> EncodedImage:
    """Return a page of a gallery as PNG, panels one below the other; small images are enlarged."""
    return encode_image(_titled({panel.title: _grid(panel, view) for panel in panels}), "png")


def _titled(grids: dict[str, Image.Image]) -> Image.Image:
    """Return grids of images below one another, each under its title."""
    width = max(260, *(grid.width for grid in grids.values()))
    height = sum(grid.height + _TITLE_HEIGHT for grid in grids.values())
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for title, grid in grids.items():
        draw.text((4, top + 2), title, fill="black", font=font)
        sheet.paste(grid, (0, top + _TITLE_HEIGHT))
        top += _TITLE_HEIGHT + grid.height
    return sheet


def _grid(panel: Panel, view: GalleryView) -> Image.Image:
    """Return a panel's images in rows, each after its initial image, if any."""
    if not len(panel.images):
        return Image.new("RGB", (1, 1))
    sets = panel.image_sets
    shown = _scaled(torch.stack(sets, 1).flatten(0, 1), view.side)
    columns = max(1, SHEET_WIDTH // (view.side * len(sets))) * len(sets)
    return tile(shown, min(columns, len(shown)))


def _scaled(images: Tensor, side: int) -> list[Image.Image]:
    """Return images averaged down to a side, or enlarged to it by a whole factor, unsmoothed."""
    shown = thumbnails(images, side)
    width = max(1, side // images.shape[-1]) * shown[0].width
    return [image.resize((width, width), Image.Resampling.NEAREST) for image in shown]
