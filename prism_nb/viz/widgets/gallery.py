"""Gallery: images of a run's methods side by side with real ones."""

from __future__ import annotations

import html
from dataclasses import replace

import ipywidgets as widgets

from prism_nb.core.errors import PrismError, UsageError
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
from prism_nb.viz.tables import parse_class_selection
from prism_nb.viz.widgets.base import RunWidget, class_choice, dropdown, method_choice

_SIDES = (32, 48, 64, 96, 128, 224, 448, 672)
_COUNTS = (20, 50, 100, 200, 500, 1000)
_AT_FIRST = 4  # sets side by side, the real images among them


class Gallery(RunWidget):
    """Images of methods by class, in pages, sorted, enlarged, and saved as a contact sheet.

    Args:
        place: The run, or its folder; a sentence names what it has not made yet.
    """

    def _build(self) -> list[widgets.Widget]:
        self._shown: list[Panel] = []
        self._make_controls()
        self._turn(0)
        return [
            widgets.HBox([self.methods, widgets.VBox([self.classes, self.order, self.network])]),
            widgets.HBox([self.side, self.per_page, self.reverse, self.before]),
            widgets.HBox([self.back, self.forward, self.page_number, self.save]),
            self.status,
            self.picture,
        ]

    def _make_controls(self) -> None:
        self.methods = method_choice(self._run, _AT_FIRST)
        self.classes = class_choice(self._classes)
        orders = [(order.title, name) for name, order in ORDERS.items()]
        self.order = dropdown("Sorted by", orders)
        self.network = dropdown("Features", self._run.settings.feature_networks_used)
        self.side = dropdown("Size (px)", _SIDES, 64, width=180)
        self.per_page = dropdown("Per page", _COUNTS, 100, width=180)
        self.reverse = widgets.Checkbox(description="Reverse the order", indent=False)
        self.before = widgets.Checkbox(description="Show initial images too", indent=False)
        self.back = widgets.Button(description="Previous page")
        self.forward = widgets.Button(description="Next page")
        self.save = widgets.Button(
            description="Save contact sheet", tooltip="Write this page as a PNG into figures/"
        )
        self.page_number = widgets.HTML(layout={"margin": "0 16px"})
        self.status, self.picture = widgets.HTML(), widgets.HTML()
        choices = [self.methods, self.classes, self.order, self.network, self.side]
        for control in (*choices, self.per_page, self.reverse, self.before):
            control.observe(lambda _: self._turn(0), names="value")
        self.back.on_click(lambda _: self._turn(self._page - 1))
        self.forward.on_click(lambda _: self._turn(self._page + 1))
        self.save.on_click(lambda _: self._save())

    @property
    def value(self) -> GalleryView:
        """The view that is shown.

        Raises:
            UsageError: The text names no classes, or there is no run.
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
        """Show a page; the last one stays if the choice cannot be shown."""
        self._page = max(0, page)
        try:
            view = self.value
        except UsageError as error:
            self._report(f"Not shown: {error}")
            return
        self._shown = panels(self._run, view)
        self.picture.value = gallery_html(self._shown, view, self._classes)
        pages = max((panel.pages for panel in self._shown), default=1)
        self._page = min(self._page, pages - 1)
        self.back.disabled, self.forward.disabled = self._page == 0, self._page >= pages - 1
        self.page_number.value = f"page {self._page + 1} of {pages}"
        limit = per_page(self._run, view)
        if limit < view.per_page and pages > 1:
            self._report(f"{limit} images of each method per page: more of this size are too many.")
        else:
            self.status.value = ""

    def _save(self) -> None:
        if not any(len(panel.rows) for panel in self._shown):
            self._report("Not saved: there is no image on this page.")
            return
        try:
            view = replace(self.value, page=self._page)
            picture = gallery_sheet(self._shown, view)
            path = save_picture(self._run, sheet_name(view, len(self._classes)), picture)
        except PrismError as error:
            self._report(f"Not saved: {error}")
            return
        self.status.value = f"<p>✓ saved as <code>{html.escape(path)}</code></p>"

    def _report(self, text: str) -> None:
        self.status.value = f"<p>{html.escape(text)}</p>"


def sheet_name(view: GalleryView, classes: int) -> str:
    """Return the file name of a view's contact sheet.

    Args:
        view: The view.
        classes: Number of classes of the dataset.
    """
    first, last = view.classes[0], view.classes[-1]
    span = f"class{first:04d}" if len(view.classes) == 1 else f"classes{first:04d}-{last:04d}"
    which = "all" if len(view.classes) == classes else span
    reverse = "_reversed" if view.reverse else ""
    return f"gallery_{which}_by_{view.order}{reverse}_page{view.page + 1}"
