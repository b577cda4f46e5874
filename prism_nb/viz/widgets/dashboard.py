"""Look at the diversity of a run's images from all sides."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.settings import REFERENCE
from prism_nb.diversity.metrics import metrics_of
from prism_nb.viz.figures.diversity import MAPS, hover_page
from prism_nb.viz.html import Result, save_figure, table_html
from prism_nb.viz.monitor import RunOrPath
from prism_nb.viz.results import RUN_RESULTS, run_labels
from prism_nb.viz.style import css
from prism_nb.viz.tables import ALL_CLASSES, class_label, method_titles, parse_class_selection
from prism_nb.viz.widgets.base import RunWidget

_PLOTLY = "application/vnd.plotly.v1+json"
_STYLE = {"description_width": "90px"}
_WIDE = {"width": "400px"}
# Title of each result, and the controls that it needs beyond methods and network.
FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "curve": ("Curve over classes", ("measure",)),
    "similarity": ("Similarity matrix", ("classes",)),
    "image_map": ("Map", ("classes", "kind")),
    "nearest": ("Nearest neighbours", ()),
}
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
        self._last: Result | None = None
        self._make_choices()
        self._make_details()
        self.save = widgets.Button(
            description="Save figure", tooltip="Write this figure and its numbers into figures/"
        )
        self.status, self.page = widgets.HTML(), widgets.HTML()
        self.output = widgets.Output()
        self.table = widgets.HTML()
        details = [self.measure, self.classes, self.kind]
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
            options=[(title, name) for name, (title, _) in FIGURES.items()],
            description="Show",
            style={"description_width": "50px", "button_width": "auto"},
        )
        self.methods = widgets.SelectMultiple(
            options=[(title, name) for name, title in method_titles(self._run).items()],
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
    def value(self) -> dict[str, Any]:
        """The options of what is shown, for `RUN_RESULTS`.

        Raises:
            UsageError: The classes cannot be made out, or there is no run.
        """
        options: dict[str, Any] = {
            "network": self.network.value,
            "methods": tuple(self.methods.value),
        }
        for name in FIGURES[self.what.value][1]:
            options[name] = getattr(self, name).value
        if "classes" in options:
            options["classes"] = parse_class_selection(options["classes"], self._classes)
        return options

    def _draw(self) -> None:
        """Draw what is chosen, or show why it cannot be drawn."""
        asks = FIGURES[self.what.value][1]
        for name in ("measure", "classes", "kind"):
            getattr(self, name).layout.display = None if name in asks else "none"
        slow = "kind" in asks and self.kind.value == "umap"
        self.status.value = f"<p>Drawing … {_SLOW if slow else ''}</p>"
        try:
            if not self.methods.value:
                raise UsageError("choose at least one method")
            self._last = RUN_RESULTS[self.what.value](self._run, **self.value)
        except PrismError as error:
            self._last = Result(note=f"Not shown: {error}")
        self._put(self._last)

    def _put(self, found: Result) -> None:
        self.status.value = f"<p>{html.escape(found.note)}</p>" if found.note else ""
        self.save.disabled = found.figure is None
        labels = run_labels(self._run)
        self.table.value = table_html(found.table, labels) if len(found.table) else ""
        self.page.value, self.output.outputs = "", ()
        if found.figure is None:
            return
        if found.images is not None:
            title = html.escape(found.figure.layout.title.text, quote=True)
            page = html.escape(hover_page(found), quote=True)
            self.page.value = (
                f'<iframe title="{title}" style="width:100%;height:'
                f'{found.figure.layout.height + 20}px;border:0" srcdoc="{page}"></iframe>'
            )
            return
        data = {_PLOTLY: found.figure.to_plotly_json(), "text/plain": self.what.value}
        self.output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    def _save(self) -> None:
        if self._last is None or self._last.figure is None:
            return
        name = figure_name(self.what.value, self.value)
        try:
            path = save_figure(self._run, name, self._last.figure, self._last.table)
        except PrismError as error:
            self.status.value = f"<p>Not saved: {html.escape(str(error))}</p>"
            return
        self.status.value = f"<p>✓ saved as <code>{html.escape(path)}</code></p>"


def figure_name(what: str, options: dict[str, Any]) -> str:
    """Return the name of a figure's files, from the result's name and its options."""
    parts = [options[name] for name in ("measure", "kind") if name in options]
    if "classes" in options:
        parts.append(f"{len(options['classes'])}classes_from{options['classes'][0]:04d}")
    return "_".join(["dashboard", what, *parts])


def _dropdown(title: str, options: list[tuple[str, str]]) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=title, layout=_WIDE, style=_STYLE)
