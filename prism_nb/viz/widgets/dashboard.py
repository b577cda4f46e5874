"""Diversity dashboard: one figure at a time of how diverse a run's images are."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.metrics import metrics_of
from prism_nb.viz.classes import parse_class_selection
from prism_nb.viz.figures.diversity import COLORS, MAPS, image_page
from prism_nb.viz.html import Result, figure_bundle, save_figure, saved_html, table_html
from prism_nb.viz.results import RUN_RESULTS, run_labels
from prism_nb.viz.widgets.base import (
    KeyboardBox,
    class_choice,
    css,
    dropdown,
    method_choice,
    note_html,
    show_html,
)

# Title of each result, and the controls that it needs beyond methods and network.
FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "curve": ("Curve over classes", ("measure",)),
    "similarity": ("Similarity matrix", ("classes",)),
    "image_map": ("Map", ("classes", "kind", "color")),
    "nearest": ("Nearest neighbours", ()),
}


class DiversityDashboard(KeyboardBox):
    """The paper's curve, similarities of a class, maps and distances to the nearest image."""

    def __init__(self, run: Run) -> None:
        self._run, self._classes = run, open_dataset(run.settings).classes
        self._shown = Result()
        self.what = widgets.ToggleButtons(
            options=[(title, name) for name, (title, _) in FIGURES.items()],
            description="Show",
            style={"description_width": "50px", "button_width": "auto"},
        )
        self.methods = method_choice(run)
        self.network = dropdown("Features", run.settings.feature_networks_used)
        self.details = {
            "measure": dropdown("Measure", [(m.title, m.name) for m in metrics_of("class")]),
            "classes": class_choice(self._classes),
            "kind": dropdown("Map by", [(title, name) for name, title in MAPS.items()]),
            "color": dropdown("Coloured by", COLORS),
        }
        self.save = widgets.Button(
            description="Save figure", tooltip="Write this figure and its numbers into figures/"
        )
        self.status, self.page, self.table = (widgets.HTML() for _ in range(3))
        self.saved, self.output = widgets.Output(), widgets.Output()
        for control in (self.what, self.methods, self.network, *self.details.values()):
            control.observe(lambda _: self._draw(), names="value")
        self.save.on_click(lambda _: self._save())
        self._draw()
        right = widgets.VBox([self.network, *self.details.values()])
        controls = widgets.HBox([self.methods, right])
        figure = [self.status, self.page, self.output, self.table]
        super().__init__([css(), self.what, controls, self.save, self.saved, *figure])
        self.add_class("prism-tables")

    @property
    def value(self) -> dict[str, Any]:
        """The options of the figure, for `RUN_RESULTS`."""
        if not self.methods.value:
            raise UsageError("choose at least one method")
        options = {"network": self.network.value, "methods": tuple(self.methods.value)}
        _, needed = FIGURES[self.what.value]
        options |= {name: self.details[name].value for name in needed}
        if "classes" in options:
            options["classes"] = parse_class_selection(options["classes"], self._classes)
        return options

    def _draw(self) -> None:
        """Draw the chosen figure, or show why it cannot be drawn."""
        _, needed = FIGURES[self.what.value]
        for name, control in self.details.items():
            control.layout.display = None if name in needed else "none"
        slow = "kind" in needed and self.details["kind"].value == "umap"
        wait = " (UMAP compiles itself when it is first used, which takes up to a minute)"
        self.status.value = note_html(f"Drawing …{wait if slow else ''}")
        try:
            self._shown = RUN_RESULTS[self.what.value](self._run, **self.value)
        except PrismError as error:
            self._shown = Result(note=f"Not shown: {error}")
        self._show(self._shown)

    def _show(self, found: Result) -> None:
        self.status.value = note_html(found.note)
        self.save.disabled = found.figure is None
        labels = run_labels(self._run)
        self.table.value = table_html(found.table, labels) if len(found.table) else ""
        self.page.value, self.output.outputs, self.saved.outputs = "", (), ()
        if found.figure is None:
            return
        if found.deck is not None:
            title = html.escape(found.figure.layout.title.text, quote=True)
            page, height = image_page(found.figure, found.deck())
            self.page.value = (
                f'<iframe title="{title}" style="width:100%;border:0;height:{height}px" '
                f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
            )
            return
        data = figure_bundle(found.figure, self.what.value)
        self.output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    def _save(self) -> None:
        try:
            name = figure_name(self.what.value, self.value)
            path = save_figure(self._run.path, name, self._shown.figure, self._shown.table)
            show_html(self.saved, saved_html(self._run.path, path))
        except PrismError as error:
            self.status.value = note_html(f"Not saved: {error}")


def figure_name(what: str, options: dict[str, Any]) -> str:
    """Return the name of a figure's files, from the result's name and its options."""
    parts = [options[name] for name in ("measure", "kind", "color") if name in options]
    if "classes" in options:
        parts.append(f"{len(options['classes'])}classes_from{options['classes'][0]:04d}")
    return "_".join(["dashboard", what, *parts])
