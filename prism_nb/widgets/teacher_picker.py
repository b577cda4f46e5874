"""Pick the pool, its primary and how BN teachers are drawn, by hand."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from prism_nb.catalogue import Entry
from prism_nb.config import check_settings, merge
from prism_nb.data import open_dataset
from prism_nb.errors import PrismError, UsageError
from prism_nb.monitor.place import Place
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.strict import write_yaml
from prism_nb.teachers.comparison import compare
from prism_nb.widgets.candidate_list import CandidateList
from prism_nb.widgets.candidates import LIBRARIES, candidates
from prism_nb.widgets.draw_controls import DrawControls
from prism_nb.widgets.joining import require_joinable
from prism_nb.widgets.local_weights import local_weights
from prism_nb.widgets.pick_preview import comparison_html, facts_of, preview_html
from prism_nb.widgets.pick_warnings import warnings_of
from prism_nb.widgets.pool_list import PoolList
from prism_nb.widgets.run_box import RunBox
from prism_nb.widgets.style import heading, rules, said

_SHOWN = 5  # files that a hint names


class TeacherPicker(RunBox):
    """Candidates to filter, the pool, the draw, and what the pick means.

    Args:
        place: The run where it starts from, or its folder; `value` is equal to the run's settings
            until touched.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.add_class("prism-picker").add_class("prism-tables")

    def _build(self) -> list[widgets.Widget]:
        settings, self._local = self._run.settings, local_weights()
        self.table = CandidateList(candidates(self._run, self._local.candidates))
        self.weights = widgets.Dropdown(description="Weights", layout={"width": "420px"})
        self.join = widgets.Button(
            description="Add to pool", tooltip="Put the selected candidates into the pool"
        )
        self.name = widgets.Text(
            description="By name",
            placeholder="e.g. resnet18@weights/mine.pth",
            layout={"width": "420px"},
        )
        self.add = widgets.Button(description="Add", tooltip="Try the named network out and add it")
        self.message = widgets.HTML()
        self.pool = PoolList(settings.teachers, settings.primary, self._pool_changed)
        self.draw = DrawControls(settings, self._refresh)
        self.warnings, self.preview, self.status = (widgets.HTML() for _ in range(3))
        self.compare = widgets.Button(
            description="Compare", tooltip="Show real images to the pool and compare the networks"
        )
        self.likeness = widgets.HTML()
        self._listen()
        self._offer_weights()
        self._refresh()
        return self._rows()

    @property
    def value(self) -> Settings:
        """The run's settings with what is picked.

        Raises:
            UsageError: The pick is incomplete or contradicts other settings, or there is no run.
        """
        run = self._run
        if not self.pool.names:
            raise UsageError("the pool is empty; select candidates and add them")
        if self.pool.primary is None:
            raise UsageError(
                f"no primary: {self.pool.missed} has left the pool; choose another one, or add it "
                "again"
            )
        values = merge(run.settings.plain(), self._picked())
        return check_settings(values, where="the teacher picker")

    def _picked(self) -> dict[str, Any]:
        picked: dict[str, Any] = {"teachers": list(self.pool.names), "primary": self.pool.primary}
        changes = self.draw.changes
        return {**picked, "recipes": changes} if changes else picked

    def _rows(self) -> list[widgets.Widget]:
        hint = "Networks without batch norm are not listed: they cannot be BN teachers. "
        hint += "Numbers count a head of 1,000 classes at the network's own image size (px); top-1 "
        hint += "is in %, on the dataset beside it."
        return [
            *(rules(), heading("Candidates"), self.table),
            widgets.HBox([self.weights, self.join]),
            widgets.HBox([self.name, self.add]),
            *(self.message, widgets.HTML(said(hint) + _by_name(self._local.others))),
            *(heading("Pool"), self.pool),
            *(heading("Draw of BN teachers"), self.draw),
            *(heading("What it means"), self.warnings, self.preview),
            *(self.compare, self.likeness, self.status),
        ]

    def _listen(self) -> None:
        self.table.found.observe(lambda _: self._offer_weights(), names="value")
        self.join.on_click(lambda _: self._join())
        self.add.on_click(lambda _: self._add())
        self.compare.on_click(lambda _: self._liken())

    def _offer_weights(self) -> None:
        """Offer the published weights of a candidate, where one alone is selected."""
        chosen = self.table.chosen
        tags = chosen[0].weights if len(chosen) == 1 and chosen[0].library in LIBRARIES else {}
        offers = [
            (tag if accuracy is None else f"{tag} ({accuracy:.1f} % on ImageNet-1K)", tag)
            for tag, accuracy in tags.items()
        ]
        self.weights.options = [("none: trained on the run's images", ""), *offers]
        self.weights.value = ""
        self.join.disabled = not chosen

    def _join(self) -> None:
        self._admit([_named(entry, self.weights.value) for entry in self.table.chosen])

    def _add(self) -> None:
        if self._admit([self.name.value.strip()]):
            self.name.value = ""

    def _admit(self, names: list[str]) -> bool:
        """Try networks out and put them into the pool, all or none."""
        try:
            dataset = open_dataset(self._run.settings)
            for name in names:
                require_joinable(name, dataset)
        except PrismError as error:
            self.message.value = said(f"Not added: {error}", "stop")
            return False
        self.message.value = said(f"Added: {', '.join(names)}", "good")
        self.pool.put((*self.pool.names, *names))
        self._pool_changed()
        return True

    def _pool_changed(self) -> None:
        self.draw.offer(self.pool.names, self.pool.primary or "")
        self.likeness.value = ""
        self._refresh()

    def _refresh(self) -> None:
        try:
            settings = self.value
            self._describe(settings)
        except PrismError as error:
            self.warnings.value = self.preview.value = ""
            self.status.value = said(f"Not usable: {error}", "stop")
            return
        code = f"<pre>{html.escape(write_yaml(self._picked()))}</pre>"
        self.status.value = self._verdict(settings) + code

    def _verdict(self, settings: Settings) -> str:
        """Say whether the run takes a usable pick: its results may have been made by another."""
        try:
            Run(self._run.path, settings).require_unmixed()
        except PrismError as error:
            text = f"Not usable in this run: {error}. A preset for another run would read:"
            return said(text, "stop")
        return said("Ready. The next cell uses these; in a preset they read:", "good")

    def _describe(self, settings: Settings) -> None:
        """Say what a usable pick means."""
        classes = self._run.read_classes() or open_dataset(settings).class_records()
        facts = {
            name: facts_of(name, classes=len(classes), image_size=settings.image_size)
            for name in settings.teachers
        }
        layers = {name: found.bn_layers for name, found in facts.items()}
        found = warnings_of(settings, layers)
        self.warnings.value = "".join(said(f"Beware: {text}", "note") for text in found)
        method = self.draw.method.value
        self.preview.value = preview_html(settings, method, facts) if method else _undrawn(settings)

    def _liken(self) -> None:
        self.likeness.value = said("Showing real images to the pool …")
        try:
            self.likeness.value = comparison_html(compare(self._run, self.pool.names))
        except PrismError as error:
            self.likeness.value = said(f"Not compared: {error}", "stop")


def _by_name(files: Sequence[str]) -> str:
    """Say which files of one's own are not listed, and how they can be added."""
    if not files:
        return ""
    shown = ", ".join(files[:_SHOWN]) + (f" and {len(files) - _SHOWN} more" * (len(files) > _SHOWN))
    return said(
        f"Not listed, since their names begin with no network's: {shown}. Add them by name, as "
        f"NETWORK@{files[0]}.",
        "note",
    )


def _undrawn(settings: Settings) -> str:
    """Say what a pool means where no method draws from it."""
    return said(
        f"The methods of this run ({', '.join(settings.methods)}) take from the pool what they "
        f"were published with, the primary {settings.primary} first, so that there is no draw to "
        "foresee; `prism-nb methods` says what each takes.",
        "plain",
    )


def _named(entry: Entry, tag: str) -> str:
    return entry.with_weights(tag) if tag else entry.name
