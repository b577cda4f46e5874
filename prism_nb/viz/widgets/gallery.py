"""Look at a run's images, method beside method."""

from __future__ import annotations

import html
from dataclasses import replace

import ipywidgets as widgets

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.settings import REFERENCE
from prism_nb.viz.figures.gallery import (
    ORDERS,
    GalleryView,
    Panel,
    gallery_html,
    gallery_sheet,
    panels,
    per_page,
)
from prism_nb.viz.html import save_picture
from prism_nb.viz.tables import ALL_CLASSES, class_label, method_titles, parse_class_selection
from prism_nb.viz.widgets.base import RunWidget

_SIDES = (32, 48, 64, 96, 128, 224, 448, 672)
_COUNTS = (20, 50, 100, 200, 500, 1000)
_AT_FIRST = 3  # methods side by side, beside the real images


class Gallery(RunWidget):
    """Images of methods side by side with real ones: by class, in pages, sorted, and saved.

    Args:
        place: The run, or its folder; what it has not made yet is said in words.
    """

    def _build(self) -> list[widgets.Widget]:
        self._shown: list[Panel] = []
        self._make_controls()
        self.page_words = widgets.HTML(layout={"margin": "0 16px"})
        self.status = widgets.HTML()
        self.picture = widgets.HTML()
        for control in (self.methods, self.network, self.order, self.reverse, self.before):
            control.observe(lambda _: self._turn(0), names="value")
        for control in (self.classes, self.per_page, self.side):
            control.observe(lambda _: self._turn(0), names="value")
        self.back.on_click(lambda _: self._turn(self._page - 1))
        self.on.on_click(lambda _: self._turn(self._page + 1))
        self.save.on_click(lambda _: self._save())
        self._turn(0)
        return [*self._rows(), self.status, self.picture]

    def _make_controls(self) -> None:
        self._make_choices()
        self.reverse = widgets.Checkbox(description="Reverse the order", indent=False)
        self.before = widgets.Checkbox(description="Initial images beside them", indent=False)
        self.back = widgets.Button(description="Previous page", tooltip="One page back")
        self.on = widgets.Button(description="Next page", tooltip="One page on")
        self.save = widgets.Button(
            description="Save contact sheet", tooltip="Write this page as a PNG into figures/"
        )

    def _make_choices(self) -> None:
        run, wide = self._run, {"width": "400px"}
        style = {"description_width": "90px"}
        names = (REFERENCE, *run.settings.methods)
        self.methods = widgets.SelectMultiple(
            options=[(title, name) for name, title in method_titles(run).items()],
            value=names[: 1 + _AT_FIRST],
            description="Images",
            rows=min(6, len(names)),
            layout=wide,
            style=style,
        )
        labels = [class_label(info) for info in self._classes]
        self.classes = widgets.Combobox(
            options=[ALL_CLASSES, *labels],
            value=labels[0],
            placeholder="a name, a number, 3-7, or several",
            description="Classes",
            continuous_update=False,
            layout=wide,
            style=style,
        )
        orders = [(order.title, name) for name, order in ORDERS.items()]
        spaces = run.settings.feature_spaces
        shared = {"layout": wide, "style": style}
        self.order = widgets.Dropdown(options=orders, description="Sorted by", **shared)
        self.network = widgets.Dropdown(options=spaces, description="Features", **shared)
        self.side = _number("Size (px)", _SIDES, 64)
        self.per_page = _number("Per page", _COUNTS, 100)

    def _rows(self) -> list[widgets.Widget]:
        left = widgets.VBox([self.methods])
        right = widgets.VBox([self.classes, self.order, self.network])
        pages = [self.back, self.on, self.page_words]
        return [
            widgets.HBox([left, right]),
            widgets.HBox([self.side, self.per_page, self.reverse, self.before]),
            widgets.HBox([*pages, self.save]),
        ]

    @property
    def value(self) -> GalleryView:
        """What is shown.

        Raises:
            UsageError: The classes cannot be made out, or there is no run.
        """
        known = self._classes
        return GalleryView(
            methods=tuple(self.methods.value),
            classes=parse_class_selection(self.classes.value, known),
            order=self.order.value,
            reverse=self.reverse.value,
            page=self._page,
            per_page=self.per_page.value,
            side=self.side.value,
            before=self.before.value,
            network=self.network.value,
        )

    def _turn(self, page: int) -> None:
        """Show a page; what cannot be shown is said, and the last page stays."""
        self._page = max(0, page)
        try:
            view = self.value
        except UsageError as error:
            self.status.value = f"<p>Not shown: {html.escape(str(error))}</p>"
            return
        self._shown = panels(self._run, view)
        self.picture.value = gallery_html(self._shown, view, self._classes)
        self._say_page(view)

    def _say_page(self, view: GalleryView) -> None:
        pages = max((panel.pages for panel in self._shown), default=1)
        self._page = min(self._page, pages - 1)
        self.back.disabled, self.on.disabled = self._page == 0, self._page >= pages - 1
        self.page_words.value = f"page {self._page + 1} of {pages}"
        held = per_page(self._run, view)
        fewer = f"<p>{held} images of each method on a page: more of this size are too many.</p>"
        self.status.value = fewer if held < view.per_page and pages > 1 else ""

    def _save(self) -> None:
        try:
            view = self.value
        except UsageError as error:
            self.status.value = f"<p>Not saved: {html.escape(str(error))}</p>"
            return
        if not any(len(panel.rows) for panel in self._shown):
            self.status.value = "<p>Not saved: there is no image on this page.</p>"
            return
        name = sheet_name(replace(view, page=self._page), len(self._classes))
        try:
            path = save_picture(self._run, name, gallery_sheet(self._shown, view))
        except PrismError as error:
            self.status.value = f"<p>Not saved: {html.escape(str(error))}</p>"
            return
        self.status.value = f"<p>✓ saved as <code>{html.escape(path)}</code></p>"


def sheet_name(view: GalleryView, classes: int) -> str:
    """Return what the contact sheet of a view is called.

    Args:
        view: The view.
        classes: Number of classes of the dataset.
    """
    first, last = view.classes[0], view.classes[-1]
    span = f"class{first:04d}" if len(view.classes) == 1 else f"classes{first:04d}-{last:04d}"
    which = "all" if len(view.classes) == classes else span
    turned = "_reversed" if view.reverse else ""
    return f"gallery_{which}_by_{view.order}{turned}_page{view.page + 1}"


def _number(title: str, choices: tuple[int, ...], value: int) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=choices, value=value, description=title, layout={"width": "180px"}
    )
