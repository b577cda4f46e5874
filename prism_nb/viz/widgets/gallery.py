"""Gallery: images of a run's methods side by side with real ones."""

from __future__ import annotations

import ipywidgets as widgets

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.viz.classes import parse_class_selection
from prism_nb.viz.figures.gallery import (
    ORDERS,
    GalleryView,
    Panel,
    gallery_html,
    gallery_sheet,
    panels,
)
from prism_nb.viz.html import save_picture, saved_html
from prism_nb.viz.widgets.base import (
    KeyboardBox,
    class_choice,
    dropdown,
    method_choice,
    note_html,
    show_html,
)

_SIDES = (32, 48, 64, 96, 128, 224, 448, 672)
_COUNTS = (20, 50, 100, 200, 500, 1000)
_AT_FIRST = 4  # sets side by side, the real images among them


class Gallery(KeyboardBox):
    """Images of methods by class, in pages, sorted, enlarged, and saved as a contact sheet."""

    def __init__(self, run: Run) -> None:
        self._run, self._classes = run, open_dataset(run.settings).classes
        self._page, self._shown = 0, list[Panel]()
        self.methods = method_choice(run, _AT_FIRST)
        self.classes = class_choice(self._classes)
        orders = [(order.title, name) for name, order in ORDERS.items()]
        self.order = dropdown("Sorted by", orders)
        self.network = dropdown("Features", run.settings.feature_networks_used)
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
        self.saved = widgets.Output()
        right = [self.classes, self.order, self.network]
        details = [self.side, self.per_page, self.reverse, self.before]
        for control in (self.methods, *right, *details):
            control.observe(lambda _: self._turn(0), names="value")
        self.back.on_click(lambda _: self._turn(self._page - 1))
        self.forward.on_click(lambda _: self._turn(self._page + 1))
        self.save.on_click(lambda _: self._save())
        self._turn(0)
        super().__init__(
            [
                widgets.HBox([self.methods, widgets.VBox(right)]),
                widgets.HBox(details),
                widgets.HBox([self.back, self.forward, self.page_number, self.save]),
                self.status,
                self.saved,
                self.picture,
            ]
        )

    @property
    def value(self) -> GalleryView:
        """The view that is shown.

        Raises:
            UsageError: The text names no classes.
        """
        return GalleryView(
            methods=tuple(self.methods.value),
            classes=parse_class_selection(self.classes.value, self._classes),
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
        self._page = page
        try:
            view = self.value
        except UsageError as error:
            self.status.value = note_html(f"Not shown: {error}")
            return
        self._shown = panels(self._run, view)
        self.picture.value = gallery_html(self._run, self._shown, view)
        pages = max((panel.pages for panel in self._shown), default=1)
        self.back.disabled, self.forward.disabled = page == 0, page >= pages - 1
        self.page_number.value = f"page {page + 1} of {pages}"
        self.status.value, self.saved.outputs = "", ()

    def _save(self) -> None:
        if not any(len(panel.rows) for panel in self._shown):
            self.status.value = note_html("Not saved: there is no image on this page.")
            return
        try:
            view = self.value
            picture = gallery_sheet(self._shown, view)
            path = save_picture(self._run.path, sheet_name(view, len(self._classes)), picture)
            show_html(self.saved, saved_html(self._run.path, path))
        except PrismError as error:
            self.status.value = note_html(f"Not saved: {error}")


def sheet_name(view: GalleryView, classes: int) -> str:
    """Return the file name of a view's contact sheet, for a dataset of so many classes."""
    span = f"classes{view.classes[0]:04d}-{view.classes[-1]:04d}"
    which = "all" if len(view.classes) == classes else span
    reverse = "_reversed" if view.reverse else ""
    return f"gallery_{which}_by_{view.order}{reverse}_page{view.page + 1}"
