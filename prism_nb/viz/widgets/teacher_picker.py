"""Teacher picker: the pool, its primary and the draw of BN teachers, chosen, saved and trained."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any

import ipywidgets as widgets
from IPython import get_ipython
from IPython.display import display

from prism_nb.core.config import build_settings, merge
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_units
from prism_nb.core.units import is_pretrained_name
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.registry import open_dataset
from prism_nb.execution.preflight import only_part
from prism_nb.models.architectures import architecture_of, resolve_architecture
from prism_nb.models.catalog import (
    SORTS,
    Entry,
    family_of,
    filtered,
    read_catalogue,
    suggest_pool,
)
from prism_nb.models.pretrained import native_preprocess
from prism_nb.models.similarity import Comparison, compare_networks
from prism_nb.models.weights import check_weights_present
from prism_nb.models.zoo import NetworkInfo
from prism_nb.viz.tables import method_titles
from prism_nb.viz.widgets.base import (
    KeyboardBox,
    control_style,
    css,
    dropdown,
    heading,
    note_html,
    set_options,
)
from prism_nb.viz.widgets.pool_preview import (
    POOL_COLUMNS,
    changes_text,
    comparison_html,
    pool_network_info,
    pool_rows,
    pool_warnings,
    preview_html,
    work_texts,
)
from prism_nb.viz.widgets.run_monitor import StageMonitor

_HINT = (
    "Networks without batch norm are not listed: they cannot be BN teachers. Parameters and GFLOP "
    "count a head of 1,000 classes at the network's own image size (px); top-1, in %, is on "
    "ImageNet-1K, or on this dataset for networks that this run has trained. Add weights of your "
    "own by name, as NETWORK@weights/FILE; one without batch norm then gives logits alone, and one "
    "without a head for these classes BN statistics alone."
)
_NO_DRAW = (
    "Nothing to set: no method of this run draws BN teachers from the pool as PRISM does. Add one "
    "to methods, such as prism, to choose how."
)
_SUGGESTION = (
    "The primary stays; the others are of families of their own: those that were compared, the "
    "least alike first, then those trained here, then the most accurate on ImageNet-1K that cost "
    "no more than the primary, or than the filter's limit. They have published weights where those "
    "know the classes of this dataset."
)
_WAITING = "Waiting for the teacher picker above: press Save there, or Train."


class TeacherPicker(KeyboardBox):
    """Candidates to filter, the pool, the draw, what the pick means, and its training.

    `value` is equal to the run's settings until touched; `saved` gives the run to go on with.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._initial = run, run.settings
        self._is_saved = self._is_confirmed = self._is_shown = False
        self._infos = dict[str, NetworkInfo]()
        self._comparison: Comparison | None = None
        settings = run.settings
        self.candidates = CandidateList(candidates(run))
        self.name = widgets.Text(
            description="By name",
            placeholder="e.g. resnet18@weights/mine.pth",
            **control_style(420),
        )
        self.add = widgets.Button(description="Add")
        self.size = dropdown(
            "of", [(f"{n} networks", n) for n in range(2, 11)], 5, width=150, label=20
        )
        self.suggest = widgets.Button(
            description="Suggest a pool",
            tooltip="The primary and the most accurate listed network of each of other families",
        )
        self.pool = PoolList(settings.teachers, settings.primary, self._pool_changed)
        self._only = {"bn_only": settings.bn_only, "logits_only": settings.logits_only}
        self.draws = {
            method: DrawControls(settings.recipe_of(method), settings.teachers, self._refresh)
            for method in drawing_methods(settings)
        }
        methods = [
            (title, name) for name, title in method_titles(run).items() if name in self.draws
        ]
        self.method = dropdown("Method", methods, label=110)
        stack = widgets.Stack([*self.draws.values()], selected_index=0 if self.draws else None)
        draw = [self.method, stack] if self.draws else [widgets.HTML(note_html(_NO_DRAW, "plain"))]
        self.message, self.warnings, self.preview = (widgets.HTML() for _ in range(3))
        self.status, self.similarity, self.answer = (widgets.HTML() for _ in range(3))
        self.compare = widgets.Button(
            description="Compare", tooltip="Compare the pool's networks on real held-out images"
        )
        self.save_button = widgets.Button(description="Save", tooltip="Write the pick to the run")
        self.training = Training(run, self._save_to_train, self._describe_pool)
        self.training.buttons.children = (self.save_button, *self.training.buttons.children)
        widgets.link((self.method, "index"), (stack, "selected_index"))
        self.method.observe(lambda _: self._refresh(), names="value")
        self.candidates.join.on_click(lambda _: self._add(self.candidates.chosen_names))
        self.add.on_click(lambda _: self._add([self.name.value.strip()]))
        self.suggest.on_click(lambda _: self._suggest())
        self.compare.on_click(lambda _: self._compare_networks())
        self.save_button.on_click(lambda _: self.save())
        self._refresh()
        super().__init__(
            [
                *(css(), heading("Candidates"), self.candidates),
                widgets.HBox([self.name, self.add]).add_class("prism-enter"),
                widgets.HBox([self.suggest, self.size]),
                *(self.message, widgets.HTML(note_html(_HINT))),
                *(heading("Pool"), self.pool),
                *(heading("Draw of BN teachers"), *draw),
                *(heading("What it means"), self.warnings, self.preview),
                *(self.compare, self.similarity),
                *(heading("Save and train"), self.status, self.training, self.answer),
            ]
        )
        self.add_class("prism-picker").add_class("prism-tables")

    @property
    def value(self) -> Settings:
        """The run's settings with what is picked."""
        if self.pool.primary.value is None:
            raise UsageError("no primary: choose one of the pool, which needs one network at least")
        values = merge(self._initial.plain(), self._picked())
        return build_settings(values, where="the picker")

    @property
    def is_open(self) -> bool:
        """Whether the pick is unsaved, being trained, or neither saved by hand nor trained."""
        is_done = self._is_confirmed or not self.training.tracker.missing
        return not self._is_saved or self.training.is_busy or not is_done

    async def saved(self) -> Run:
        """Return the run with what is picked; where a person is shown the picker, wait for them.

        It waits for *Save*, or for the end of what *Train* began, unless there is nothing to save
        or to train. Without a person, as under papermill, it saves what the settings say.
        """
        if self._is_shown and self.is_open:
            note = widgets.HTML(note_html(_WAITING, "note"))
            display(note)
            while self.is_open:
                await asyncio.sleep(0.1)
            note.value = ""
        return self._run.with_settings(self.value)

    def save(self) -> bool:
        """Write the pick to the run if it can be, and show what changes and what is to be made."""
        before = self._run.settings
        try:
            self._run = self._run.with_settings(self.value)
        except PrismError as error:
            self.answer.value = note_html(f"Not saved: {error}", "stop")
            return False
        self._is_confirmed = True
        self._refresh()
        changes = changes_text(before, self._run.settings) or "nothing has changed"
        saved = note_html(f"Saved: {changes}.", "good")
        texts = [note_html(text, "plain") for text in work_texts(self._run)]
        self.answer.value = "".join([saved, *texts])
        return True

    def _ipython_display_(self) -> None:
        self._is_shown = is_attended()
        super()._ipython_display_()
        self.training.follow()

    def _save_to_train(self) -> bool:
        is_saved = self.save()
        self._is_confirmed = False  # by the end of the training
        return is_saved

    def _picked(self) -> dict[str, Any]:
        changes = {method: draw.changes for method, draw in self.draws.items() if draw.changes}
        names = list(self.pool.names)
        pool: dict[str, Any] = {"teachers": names, "primary": self.pool.primary.value}
        for setting, only in self._only.items():
            if only:
                pool[setting] = [name for name in names if name in only]
        return {**pool, "recipes": changes} if changes else pool

    def _add(self, names: list[str]) -> None:
        """Put networks into the pool if all of them can be used."""
        if not any(names):
            self.message.value = note_html("Not added: choose a candidate or enter a name.", "stop")
            return
        try:
            settings, dataset = self._run.settings, open_dataset(self._run.settings)
            check_weights_present([name for name in names if is_pretrained_name(name)])
            parts = {name: only_part(name, dataset, resample=settings.resample) for name in names}
        except PrismError as error:
            self.message.value = note_html(f"Not added: {error}", "stop")
            return
        for name, setting in parts.items():
            if setting:
                self._only[setting] = (*self._only[setting], name)
        self.pool.put((*self.pool.names, *names))
        self.name.value = ""
        self.message.value = note_html(f"Added: {', '.join(names)}", "good")

    def _suggest(self) -> None:
        """Replace the pool beside its primary, by families, cost and what was compared."""
        primary, found = self.pool.primary.value, self._comparison
        if primary is None:
            self.message.value = note_html("Not suggested: choose a primary first.", "stop")
            return
        settings, dataset = self._run.settings, open_dataset(self._run.settings)

        def fits(name: str) -> bool:
            try:
                return only_part(name, dataset, resample=settings.resample) is None
            except PrismError:
                return False

        def name_of(entry: Entry) -> str | None:
            return next(filter(fits, entry.names), None)

        is_limited = self.candidates.gflop.value > 0  # by the filter
        costs = {resolve_architecture(entry.name): entry.flops for entry in read_catalogue()}
        architecture = resolve_architecture(architecture_of(primary))
        limit = inf if is_limited else costs.get(architecture, inf)
        entries = [
            entry
            for entry in self.candidates.found
            if entry.name not in settings.holdout_networks
            and (entry.library == "this run" or entry.flops <= limit)
        ]
        likeness = found.similarities if found else {}
        names = suggest_pool(entries, primary, self.size.value, name_of=name_of, likeness=likeness)
        if len(names) < 2:
            self.message.value = note_html("Not suggested: none fits; widen the filter.", "stop")
            return
        self.pool.put(names)
        self.message.value = note_html(f"Suggested: {', '.join(names)}. {_SUGGESTION}", "good")

    def _pool_changed(self) -> None:
        for draw in self.draws.values():
            draw.set_pool(self.pool.names)
        self.similarity.value = ""
        self._refresh()

    def _refresh(self) -> None:
        self.warnings.value = self.preview.value = self.answer.value = ""
        try:
            settings, dataset = self.value, open_dataset(self._run.settings)
            self._infos = {name: pool_network_info(name, dataset) for name in settings.teachers}
        except PrismError as error:
            self._show_status(f"Not usable: {error}", obstacle=str(error))
            self.training.refresh()
            return
        layers = {name: info.bn_layers for name, info in self._infos.items()}
        found = pool_warnings(settings, layers)
        self.warnings.value = "".join(note_html(f"Beware: {text}", "note") for text in found)
        self.preview.value = preview_html(settings, self.method.value, self._infos)
        run, changes = Run(self._run.path, settings), changes_text(self._run.settings, settings)
        try:
            run.check_settings()
            self._show_status(f"Not saved yet: {changes}." if changes else "Ready: as in the run.")
            self._is_saved = not changes
        except PrismError as error:  # it would mix results
            self._show_status(f"Not usable in this run: {error}.", obstacle=str(error))
        code = html.escape(write_yaml(self._picked()))
        self.status.value += f"<details><summary>As a preset</summary><pre>{code}</pre></details>"
        self.training.use(run)
        self._describe_pool(run)

    def _show_status(self, text: str, *, obstacle: str = "") -> None:
        self._is_saved = False
        self.status.value = note_html(text, "stop" if obstacle else "good")
        self.save_button.disabled, self.training.obstacle = bool(obstacle), obstacle

    def _describe_pool(self, run: Run) -> None:
        self.pool.describe(pool_rows(run, self._infos))

    def _compare_networks(self) -> None:
        self.similarity.value = note_html("Comparing the networks on real images …")
        try:
            self._comparison = compare_networks(self._run, self.pool.names)
            self.similarity.value = comparison_html(self._comparison)
        except PrismError as error:
            self.similarity.value = note_html(f"Not compared: {error}", "stop")


class Training(StageMonitor):
    """A monitor of the squeeze of what is picked, which is saved before it starts.

    Args:
        run: The run.
        save: Saves the pick, and returns whether it could be.
        changed: Called with the run whenever networks have been trained.
    """

    def __init__(self, run: Run, save: Callable[[], bool], changed: Callable[[Run], None]) -> None:
        self._save, self._changed, self._done = save, changed, 0
        super().__init__(run, "squeeze", labels=("Train", "Train"))

    def _start(self) -> None:
        if self._save():
            super()._start()

    def _show(self) -> None:
        super()._show()
        before, self._done = self._done, len(self.tracker.done)
        if self._done != before:
            self._changed(self.run)


def is_attended() -> bool:
    """Return whether a person at a front end runs the present cell, who could enter text."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and kernel.get_parent("shell")["content"].get("allow_stdin", False)


# -- candidates ------------------------------------------------------------------------------

_LIBRARIES = ("torchvision", "timm")  # the libraries that publish weights
_BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # GFLOP
_NARROW = {"width": 215, "label": 58}
_COLUMNS = "{:<36.36} {:<13.13} {:<13} {:>4} {:>7} {:>8} {:>4} {:>6}"
_HEAD = _COLUMNS.format("network", "family", "from", "BN", "par. M", "GFLOP", "px", "top-1")


class CandidateList(widgets.VBox):
    """A filter over candidates, a list of those that pass it, and their published weights."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self.text = widgets.Text(
            description="Filter",
            placeholder="parts of a name, e.g. resnet 50",
            **control_style(300),
        )
        families = sorted({entry.family for entry in entries})
        origins = dict.fromkeys(entry.library for entry in entries)
        bounds = [("any", 0.0), *((f"≤ {bound:g} GFLOP", bound) for bound in _BOUNDS)]
        self.family = dropdown("Family", _any_or("any", families), **_NARROW)
        self.origin = dropdown("From", _any_or("anywhere", origins), **_NARROW)
        self.gflop = dropdown("Cost", bounds, **_NARROW)
        self.sort = dropdown("Sort by", _any_or("as listed", SORTS), **_NARROW)
        self.count = widgets.HTML()
        self.list = widgets.SelectMultiple(
            description="Candidates", rows=10, layout={"width": "auto"}
        ).add_class("prism-list")
        self.weights = dropdown("Weights", [], width=420)
        self.join = widgets.Button(description="Add to pool")
        controls = (self.text, self.family, self.origin, self.gflop, self.sort)
        for control in controls:
            control.observe(lambda _: self._filter(), names="value")
        self.list.observe(lambda _: self._offer_weights(), names="value")
        self._filter()
        super().__init__(
            [
                widgets.HBox(controls[:3]),
                widgets.HBox([*controls[3:], self.count]),
                widgets.HTML(f'<div class="prism-head">{html.escape(_HEAD)}</div>'),
                self.list,
                widgets.HBox([self.weights, self.join]),
            ]
        )
        self.add_class("prism-enter")

    @property
    def chosen_names(self) -> list[str]:
        """The selected candidates in the order of the list, with the chosen weights if any."""
        tag = self.weights.value
        return [entry.with_weights(tag) if tag else entry.name for entry in self._chosen]

    @property
    def _chosen(self) -> list[Entry]:
        """The selected candidates, or the only one that is listed."""
        chosen = [entry for entry in self._entries if entry.name in self.list.value]
        return self.found if len(self.found) == 1 else chosen

    def _filter(self) -> None:
        self.found = found = filtered(
            self._entries,
            words=self.text.value,
            family=self.family.value,
            library=self.origin.value,
            gflop=self.gflop.value or None,
            sort=self.sort.value,
        )
        set_options(self.list, [(_line(entry), entry.name) for entry in found])
        text = f"{len(found)} of {len(self._entries)} networks with batch norm"
        if not found:
            text = "No network fits: shorten the filter, or allow any family, origin and cost"
        self.count.value = note_html(text, "quiet" if found else "note")
        self._offer_weights()

    def _offer_weights(self) -> None:
        """Offer the published weights of a candidate, if exactly one is selected."""
        chosen = self._chosen
        tags = chosen[0].weights if len(chosen) == 1 and chosen[0].library in _LIBRARIES else {}
        offers = [
            (tag if accuracy is None else f"{tag} ({accuracy:.1f} % on ImageNet-1K)", tag)
            for tag, accuracy in tags.items()
        ]
        self.weights.options = [("none: trained on the run's images", ""), *offers]
        self.weights.value = ""


def _any_or(label: str, values: Iterable[str]) -> list[tuple[str, str]]:
    return [(label, ""), *((value, value) for value in values)]


def _line(entry: Entry) -> str:
    """Return a candidate as one line, in the columns of `_HEAD`."""
    flops = entry.flops / 1e9
    line = _COLUMNS.format(
        *(entry.name, entry.family, entry.library, entry.bn_layers),
        *(f"{entry.parameters / 1e6:.2f}", f"{flops:.{2 if flops >= 1 else 4}f}", entry.input_size),
        "–" if entry.accuracy is None else f"{entry.accuracy:.1f}",
    )
    return line.replace(" ", "\u00a0")  # a browser would join plain spaces


def candidates(run: Run) -> list[Entry]:
    """Return the networks with batch norm that a run has trained, then the catalogue."""
    trained, dataset = [], open_dataset(run.settings)
    for unit in network_units(run.settings):
        marker = run.units.marker(unit)
        if marker is not None and marker["record"].get("bn_layers"):
            record = marker["record"]
            accuracy = record["accuracy"]
            counts = ("bn_layers", "bn_channels", "parameters", "flops")
            trained.append(
                Entry(
                    name=unit.name,
                    library="this run",
                    family=family_of(unit.name),
                    **{count: record[count] for count in counts},
                    input_size=native_preprocess(unit.name, dataset).size,
                    weights={"measured": None if accuracy is None else 100 * accuracy},
                    licence="",
                )
            )
    return [*trained, *read_catalogue()]


# -- the pool --------------------------------------------------------------------------------


class PoolList(widgets.VBox):
    """The networks of a pool in a table, and its primary; `changed` is called after each change.

    A primary that leaves the pool is not replaced, since another one gives other images.
    """

    def __init__(self, names: tuple[str, ...], primary: str, changed: Callable[[], None]) -> None:
        self.rows = dict[str, widgets.HBox]()
        self._changed = changed
        self.members = widgets.VBox()
        head = widgets.HTML(_cells(POOL_COLUMNS)).add_class("prism-head")
        self.primary = dropdown("Primary", names, primary, width=420)
        self.primary.observe(lambda _: changed(), names="value")
        self._show(names)
        super().__init__([head, self.members, self.primary])

    @property
    def names(self) -> tuple[str, ...]:
        """The networks, in the order in which they were added."""
        return self._names

    def put(self, names: Sequence[str]) -> None:
        """Replace the pool's networks; doubled names count once."""
        self._show(names)
        primary = self.primary.value
        self.primary.options = self.names  # chooses the first by itself
        self.primary.value = primary if primary in self.names else None
        self._changed()

    def remove(self, name: str) -> None:
        """Take a network out of the pool."""
        self.put([other for other in self.names if other != name])

    def describe(self, rows: Mapping[str, Sequence[str]]) -> None:
        """Show the texts of `POOL_COLUMNS` of each network."""
        for name, texts in rows.items():
            self.rows[name].children[0].value = _cells(texts)

    def _show(self, names: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(names))
        self.members.children = [self._row(name) for name in self._names]

    def _row(self, name: str) -> widgets.HBox:
        """Return a network's texts with a button that removes it."""
        if name not in self.rows:
            button = widgets.Button(
                description="Remove",
                tooltip=f"Remove {name} from the pool",
                layout={"width": "auto"},
            )
            button.on_click(lambda _: self.remove(name))
            texts = widgets.HTML(_cells(["", name]))
            self.rows[name] = widgets.HBox([texts, button]).add_class("prism-member")
        return self.rows[name]


def _cells(texts: Sequence[str]) -> str:
    cells = "".join(f"<span>{html.escape(text)}</span>" for text in texts)
    return f'<div class="prism-row">{cells}</div>'


# -- the draw --------------------------------------------------------------------------------

_SELECTIONS = (
    ("at random, once per unit (pre)", "pre"),
    ("at random, again and again (intra)", "intra"),
    ("all of them, at every step (all)", "all"),
    ("one per step, in turn (round_robin)", "round_robin"),
    ("as named (fixed)", "fixed"),
)
_PRIMARY = (
    ("always a BN teacher", "always"),
    ("drawn like the others (candidate)", "candidate"),
    ("never a BN teacher", "never"),
)


class DrawControls(widgets.Box):
    """Controls for the draw of BN teachers of one method, at first as in its recipe.

    Args:
        recipe: The method.
        pool: All networks.
        changed: Called after every change by hand.
    """

    def __init__(self, recipe: Recipe, pool: Sequence[str], changed: Callable[[], None]) -> None:
        exact = [(f"exactly {n}", n) for n in range(1, max(20, recipe.bn_subset_size or 0) + 1)]
        sizes = [("each slot filled by chance", 0), *exact]
        wide = control_style(400, 110)
        self.fields: dict[str, widgets.Widget] = {
            "selection": dropdown("Draw", _SELECTIONS, label=110),
            "resample_every": widgets.BoundedIntText(
                description="Steps per draw", min=1, max=1_000_000, **wide
            ),
            "primary_in_bn": dropdown("The primary is", _PRIMARY, label=110),
            "bn_subset_size": dropdown("How many", sizes, label=110),
            "num_bn_slots": widgets.BoundedIntText(description="Slots", min=0, max=999, **wide),
            "bn_slot_prob": widgets.BoundedFloatText(
                description="Chance per slot", min=0, max=1, step=0.05, **wide
            ),
            "bn_fixed": widgets.SelectMultiple(
                options=pool, description="BN teachers", rows=5, **wide
            ),
        }
        for name, control in self.fields.items():
            value = getattr(recipe, name)
            control.value = 0 if value is None else value  # None would select nothing
            control.observe(lambda _: self._edited(), names="value")
        self._initial, self._changed = self._values(), changed
        self._show_relevant()
        super().__init__([*self.fields.values()], layout={"flex_flow": "row wrap"})

    @property
    def changes(self) -> dict[str, Any]:
        """Differences from the recipe."""
        return {n: value for n, value in self._values().items() if value != self._initial[n]}

    def set_pool(self, pool: Sequence[str]) -> None:
        """Let `fixed` name the members of a pool."""
        set_options(self.fields["bn_fixed"], pool)

    def _edited(self) -> None:
        self._show_relevant()
        self._changed()

    def _values(self) -> dict[str, Any]:
        values = {name: control.value for name, control in self.fields.items()}
        size, fixed = values["bn_subset_size"] or None, list(values["bn_fixed"])
        return {**values, "bn_subset_size": size, "bn_fixed": fixed}

    def _show_relevant(self) -> None:
        """Hide the controls that do not count for the chosen way to draw."""
        kind = self.fields["selection"].value
        drawn = kind in {"pre", "intra"}
        by_slots = drawn and not self.fields["bn_subset_size"].value
        relevant = {
            "resample_every": kind == "intra",
            "bn_subset_size": drawn,
            "num_bn_slots": by_slots,
            "bn_slot_prob": by_slots,
            "bn_fixed": kind == "fixed",
        }
        for name, shown in relevant.items():
            self.fields[name].layout.display = "" if shown else "none"


def drawing_methods(settings: Settings) -> list[str]:
    """Return the methods of a run that draw as PRISM does; the others stay as published."""
    return [
        method
        for method in settings.methods
        if str(settings.recipes.get(method, {}).get("base", method)).startswith("prism")
    ]
