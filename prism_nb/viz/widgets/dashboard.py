"""Look at the diversity of a run's images from all sides."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.settings import REFERENCE
from prism_nb.diversity.metrics import metrics_of
from prism_nb.viz.figures.diversity import (
    FIGURES,
    MAPS,
    NEAR,
    DashboardView,
    FigureResult,
    framed,
    hover_page,
    render_view,
)
from prism_nb.viz.html import save_figure, table_html
from prism_nb.viz.monitor import RunOrPath
from prism_nb.viz.style import css
from prism_nb.viz.tables import ALL_CLASSES, class_label, method_title, parse_class_selection
from prism_nb.viz.widgets.base import RunWidget

_PLOTLY = "application/vnd.plotly.v1+json"
_STYLE = {"description_width": "90px"}
_WIDE = {"width": "400px"}
_SLOW = "(UMAP compiles itself when it is first used, which takes up to a minute)"


class DiversityDashboard(RunWidget):
    """A figure at a time: the paper's curve, similarities of a class, maps, distances, measures.

    Args:
        place: The run, or its folder; what it has not measured yet is said in words.
    """

    def __init__(self, place: RunOrPath) -> None:
        super().__init__(place)
        self.add_class("prism-tables")

    def _build(self) -> list[widgets.Widget]:
        self._last: FigureResult | None = None
        self._make_choices()
        self._make_details()
        self.save = widgets.Button(
            description="Save figure", tooltip="Write this figure and its numbers into figures/"
        )
        self.status, self.page = widgets.HTML(), widgets.HTML()
        self.output = widgets.Output()
        self.table = widgets.HTML()
        details = [self.measure, self.classes, self.kind, self.near]
        controls = widgets.HBox([self.methods, widgets.VBox([self.network, *details])])
        figure = [self.status, self.page, self.output, self.table]
        for control in (self.what, self.methods, self.network, *details):
            control.observe(lambda _: self._draw(), names="value")
        self.save.on_click(lambda _: self._save())
        self._draw()
        return [css(), self.what, controls, self.save, *figure]

    def _make_choices(self) -> None:
        settings = self._run.settings
        names = (REFERENCE, *settings.methods)
        self.what = widgets.ToggleButtons(
            options=[(kind.title, name) for name, kind in FIGURES.items()],
            description="Show",
            style={"description_width": "50px", "button_width": "auto"},
        )
        self.methods = widgets.SelectMultiple(
            options=[(method_title(self._run, name), name) for name in names],
            value=names,
            description="Images",
            rows=min(6, len(names)) + 1,
            layout=_WIDE,
            style=_STYLE,
        )
        self.network = _dropdown("Features", [(name, name) for name in settings.feature_spaces])

    def _make_details(self) -> None:
        self.measure = _dropdown("Measure", [(m.title, m.name) for m in metrics_of("class")])
        self.kind = _dropdown("Map by", [(title, name) for name, title in MAPS.items()])
        self.near = _dropdown("Nearest is", [(title, name) for name, title in NEAR.items()])
        labels = [class_label(info) for info in self._classes]
        self.classes = widgets.Combobox(
            options=[ALL_CLASSES, *labels],
            value=labels[0],
            placeholder="a name, a number, 3-7, or several",
            description="Classes",
            continuous_update=False,
            layout=_WIDE,
            style=_STYLE,
        )

    @property
    def value(self) -> DashboardView:
        """What is shown.

        Raises:
            UsageError: The classes cannot be made out, or there is no run.
        """
        known = self._classes
        return DashboardView(
            what=self.what.value,
            network=self.network.value,
            methods=tuple(self.methods.value),
            classes=parse_class_selection(self.classes.value, known),
            measure=self.measure.value,
            kind=self.kind.value,
            near=self.near.value,
        )

    def _draw(self) -> None:
        """Draw what is chosen; what cannot be drawn is said, and takes the figure's place."""
        asks = FIGURES[self.what.value].asks
        for name in ("measure", "classes", "kind", "near"):
            getattr(self, name).layout.display = None if name in asks else "none"
        slow = "kind" in asks and self.kind.value == "umap"
        self.status.value = f"<p>Drawing … {_SLOW if slow else ''}</p>"
        try:
            self._last = render_view(self._run, self.value)
        except UsageError as error:
            self._last = FigureResult(words=f"Not shown: {error}")
        self._put(self._last)

    def _put(self, found: FigureResult) -> None:
        self.status.value = f"<p>{html.escape(found.words)}</p>" if found.words else ""
        self.save.disabled = found.figure is None
        self.table.value = "" if found.table is None else table_html(found.table)
        self.page.value, self.output.outputs = "", ()
        if found.figure is None:
            return
        if found.images is not None:
            title = found.figure.layout.title.text
            page = hover_page(found.figure, found.images, found.names, title)
            self.page.value = framed(page, title=title, height=found.figure.layout.height + 10)
            return
        data = {_PLOTLY: found.figure.to_plotly_json(), "text/plain": self.what.value}
        self.output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    def _save(self) -> None:
        if self._last is None or self._last.figure is None or self._last.table is None:
            return
        name = figure_name(self.value)
        try:
            path = save_figure(self._run, name, self._last.figure, self._last.table)
        except PrismError as error:
            self.status.value = f"<p>Not saved: {html.escape(str(error))}</p>"
            return
        self.status.value = f"<p>✓ saved as <code>{html.escape(path)}</code></p>"


def figure_name(view: DashboardView) -> str:
    """Return what the files of a view are called."""
    details: dict[str, Callable[[], str]] = {
        "measure": lambda: view.measure,
        "kind": lambda: view.kind,
        "near": lambda: view.near,
        "classes": lambda: f"{len(view.classes)}classes_from{view.classes[0]:04d}",
    }
    return "_".join(["dashboard", view.what, *(details[ask]() for ask in FIGURES[view.what].asks)])


def _dropdown(title: str, options: list[tuple[str, str]]) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=title, layout=_WIDE, style=_STYLE)
