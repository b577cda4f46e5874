"""What a gallery shows: which images, in which order, with which words."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from prism_nb.absent_units import absent
from prism_nb.artifacts.images import load_some
from prism_nb.data import open_dataset
from prism_nb.errors import PrismError
from prism_nb.image_tables import image_table, with_distance, with_judgement
from prism_nb.pipeline import class_count
from prism_nb.plans.diversity import REFERENCE, diversity_unit
from prism_nb.plans.synthesis import method_units
from prism_nb.run import Run
from prism_nb.synthesis.begin import initial_pictures
from prism_nb.tables import method_title

MOST_JUDGED = 2000  # images that teachers look at for the sake of an order
_MOST_PIXELS = 24_000_000  # of a page: what a browser shows without delay
_READERS = 4
_BEGUN = {
    "imported": "imported: what these images began from is not known",
    "initial": "not optimised: these are the initial images",
}


@dataclass(frozen=True)
class Order:
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
    "slot": Order("class and slot", ()),
    "unit_loss": Order(
        "loss of the unit (recorded)",
        ("logit loss", "BN loss"),
        caption="unit {:.3g}",
        missing="no losses are recorded of images that are not optimised",
    ),
    "own_loss": Order(
        "loss of the image (primary, computed)",
        ("own loss",),
        caption="loss {:.3g}",
        missing="nothing to look at",
    ),
    "distance": Order(
        "distance to the nearest training image",
        ("distance",),
        caption="d {:.3f}",
        missing="not measured yet: run notebook 03",
    ),
    "agreement": Order(
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
    order: str = "slot"
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
    if order.is_judged and len(table) > MOST_JUDGED:
        return table, [
            f"in order of class and slot: teachers look at {MOST_JUDGED} images at most for the "
            f"sake of an order, and these are {len(table)}; name fewer classes"
        ]
    try:
        table = with_judgement(table, run, method) if order.is_judged else table
    except PrismError as error:
        return table, [f"in order of class and slot: {error}"]
    missing = order.missing
    if order.columns == ("distance",):
        missing = absent(run, [diversity_unit(run, method, class_count(run))], missing)
    return in_order(table, order, reverse=view.reverse), _unsorted(table, order, missing)


def in_order(table: pd.DataFrame, order: Order, *, reverse: bool) -> pd.DataFrame:
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
        [*order.columns, "class", "slot"],
        ascending=[*(way != reverse for way in ways), True, True],
        na_position="last",
    )


def _unsorted(table: pd.DataFrame, order: Order, missing: str) -> list[str]:
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
    how = run.settings.recipe_of(method).images
    if how != "recovered":
        return None, [_BEGUN[how]]
    if not len(rows):
        return None, []
    return initial_pictures(run, method, _members(rows)), []


def _read(run: Run, method: str, members: Sequence[tuple[int, int]]) -> Tensor:
    """Read images with several threads, since a file's pixels are decoded beside Python."""
    dataset = open_dataset(run.settings)
    if not members:
        return _none(run)
    if method == REFERENCE:
        return load_some(run, method, dataset, members)
    share = -(-len(members) // _READERS)
    parts = [members[start : start + share] for start in range(0, len(members), share)]
    with ThreadPoolExecutor(_READERS) as readers:
        return torch.cat(list(readers.map(lambda p: load_some(run, method, dataset, p), parts)))


def _none(run: Run) -> Tensor:
    size = open_dataset(run.settings).image_size
    return torch.empty(0, 3, size, size, dtype=torch.uint8)


def _members(rows: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(rows["class"].to_list(), rows["slot"].to_list(), strict=True))
