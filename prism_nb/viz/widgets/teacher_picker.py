"""Pick the pool, its primary and how BN teachers are drawn, by hand."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from prism_nb.core import fileio
from prism_nb.core.config import build_settings, merge, project_root
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import is_pretrained_name
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.models.catalog import SORTS, Entry, family_of, filtered, find_entry, read_catalogue
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.similarity import Comparison, compare_networks
from prism_nb.models.teacher import check_bn
from prism_nb.models.weights import (
    WeightsMetadata,
    check_weights_present,
    read_metadata,
    resolve_weights,
)
from prism_nb.models.zoo import (
    WEIGHT_FILES,
    NetworkInfo,
    architecture_of,
    build_on_meta,
    check_forward,
    network_info,
)
from prism_nb.synthesis.teacher_sampling import SelectionProbs, selection_probs
from prism_nb.viz.monitor import RunOrPath
from prism_nb.viz.style import css, heading, nbsp_pad, note_html
from prism_nb.viz.widgets.base import RunWidget

_SHOWN = 5  # files that a hint names


class TeacherPicker(RunWidget):
    """Candidates to filter, the pool, the draw, and what the pick means.

    Args:
        place: The run where it starts from, or its folder; `value` is equal to the run's settings
            until touched.
    """

    def __init__(self, place: RunOrPath) -> None:
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
        return build_settings(values, where="the teacher picker")

    def _picked(self) -> dict[str, Any]:
        picked: dict[str, Any] = {"teachers": list(self.pool.names), "primary": self.pool.primary}
        changes = self.draw.changes
        return {**picked, "recipes": changes} if changes else picked

    def _rows(self) -> list[widgets.Widget]:
        hint = "Networks without batch norm are not listed: they cannot be BN teachers. "
        hint += "Numbers count a head of 1,000 classes at the network's own image size (px); top-1 "
        hint += "is in %, on the dataset beside it."
        return [
            *(css(), heading("Candidates"), self.table),
            widgets.HBox([self.weights, self.join]),
            widgets.HBox([self.name, self.add]),
            *(self.message, widgets.HTML(note_html(hint) + _by_name(self._local.others))),
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
                check_can_join_pool(name, dataset)
        except PrismError as error:
            self.message.value = note_html(f"Not added: {error}", "stop")
            return False
        self.message.value = note_html(f"Added: {', '.join(names)}", "good")
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
            self.status.value = note_html(f"Not usable: {error}", "stop")
            return
        code = f"<pre>{html.escape(write_yaml(self._picked()))}</pre>"
        self.status.value = self._verdict(settings) + code

    def _verdict(self, settings: Settings) -> str:
        """Say whether the run takes a usable pick: its results may have been made by another."""
        try:
            Run(self._run.path, settings).require_unmixed()
        except PrismError as error:
            text = f"Not usable in this run: {error}. A preset for another run would read:"
            return note_html(text, "stop")
        return note_html("Ready. The next cell uses these; in a preset they read:", "good")

    def _describe(self, settings: Settings) -> None:
        """Say what a usable pick means."""
        classes = self._run.read_classes() or open_dataset(settings).class_records()
        facts = {
            name: network_facts(name, classes=len(classes), image_size=settings.image_size)
            for name in settings.teachers
        }
        layers = {name: found.bn_layers for name, found in facts.items()}
        found = pool_warnings(settings, layers)
        self.warnings.value = "".join(note_html(f"Beware: {text}", "note") for text in found)
        method = self.draw.method.value
        self.preview.value = preview_html(settings, method, facts) if method else _undrawn(settings)

    def _liken(self) -> None:
        self.likeness.value = note_html("Showing real images to the pool …")
        try:
            self.likeness.value = comparison_html(compare_networks(self._run, self.pool.names))
        except PrismError as error:
            self.likeness.value = note_html(f"Not compared: {error}", "stop")


def _by_name(files: Sequence[str]) -> str:
    """Say which files of one's own are not listed, and how they can be added."""
    if not files:
        return ""
    shown = ", ".join(files[:_SHOWN]) + (f" and {len(files) - _SHOWN} more" * (len(files) > _SHOWN))
    return note_html(
        f"Not listed, since their names begin with no network's: {shown}. Add them by name, as "
        f"NETWORK@{files[0]}.",
        "note",
    )


def _undrawn(settings: Settings) -> str:
    """Say what a pool means where no method draws from it."""
    return note_html(
        f"The methods of this run ({', '.join(settings.methods)}) take from the pool what they "
        f"were published with, the primary {settings.primary} first, so that there is no draw to "
        "foresee; `prism-nb methods` says what each takes.",
        "plain",
    )


def _named(entry: Entry, tag: str) -> str:
    return entry.with_weights(tag) if tag else entry.name


@dataclass(frozen=True)
class Candidate(Entry):
    """An entry of a catalogue: the shipped one's, or of a network with weights of one's own.

    Attributes:
        measured_on: The dataset whose held-out images `accuracy` was measured on; empty where it
            is not known.
    """

    measured_on: str = ""


_HEAD = (
    f"{'network':<36} {'family':<13} {'from':<11} {'BN':>4} {'par. M':>7} {'GFLOP':>8} "
    f"{'px':>4} {'top-1':>6} {'on':<11}"
)
_MOST = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # offered as bounds, in GFLOP


class CandidateList(widgets.VBox):
    """A filter over candidates, and those that fit it; `chosen` are the selected ones."""

    def __init__(self, entries: Sequence[Candidate]) -> None:
        self._entries = list(entries)
        families = sorted({entry.family for entry in entries})
        origins = list(dict.fromkeys(entry.library for entry in entries))
        self.words = widgets.Text(
            description="Filter", placeholder="parts of a name, e.g. resnet 50", layout=_wide(300)
        )
        self.family = _dropdown("Family", _or_any("any", families))
        self.origin = _dropdown("From", _or_any("anywhere", origins))
        self.gflop = _dropdown("Cost", [("any", 0.0), *((f"≤ {m:g} GFLOP", m) for m in _MOST)])
        self.sort = _dropdown("Sort by", _or_any("as listed", SORTS))
        self.found = widgets.SelectMultiple(
            description="Candidates", rows=10, layout={"width": "auto"}
        ).add_class("prism-list")
        self.count = widgets.HTML()
        super().__init__(
            [
                widgets.HBox([self.words, self.family, self.origin]),
                widgets.HBox([self.gflop, self.sort, self.count]),
                widgets.HTML(f'<div class="prism-head">{html.escape(_HEAD)}</div>'),
                self.found,
            ]
        )
        for control in (self.words, self.family, self.origin, self.gflop, self.sort):
            control.observe(lambda _: self._filter(), names="value")
        self._filter()

    @property
    def chosen(self) -> tuple[Candidate, ...]:
        """The candidates that are selected, in the order of the list."""
        wanted = set(self.found.value)
        return tuple(entry for entry in self._entries if entry.name in wanted)

    def _filter(self) -> None:
        fits = filtered(
            self._entries,
            words=self.words.value,
            family=self.family.value,
            library=self.origin.value,
            gflop=self.gflop.value or None,
            sort=self.sort.value,
        )
        kept = [entry.name for entry in fits if entry.name in self.found.value]
        # A browser that still had the old selection would look for it among the new options.
        self.found.value = ()
        self.found.options = [(line_of(entry), entry.name) for entry in fits]
        self.found.value = kept
        text = f"{len(fits)} of {len(self._entries)} networks with batch norm"
        if not fits:
            text = "No network fits: shorten the filter, or allow any family, origin and cost"
        self.count.value = note_html(text, "quiet" if fits else "note")


def line_of(entry: Candidate) -> str:
    """Return a candidate as one line, in columns."""
    accuracy = "–" if entry.accuracy is None else f"{entry.accuracy:.1f}"
    measured_on = "" if entry.accuracy is None else _cut(entry.measured_on, 11)
    flops = entry.flops / 1e9
    return nbsp_pad(
        f"{_cut(entry.name, 36):<36} {_cut(entry.family, 13):<13} {_cut(entry.library, 11):<11} "
        f"{entry.bn_layers:>4} {entry.parameters / 1e6:>7.2f} "
        f"{flops:>8.{2 if flops >= 1 else 4}f} {entry.input_size or '':>4} {accuracy:>6} "
        f"{measured_on:<11}"
    )


def _cut(text: str, most: int) -> str:
    """Shorten a name in its middle: both ends tell networks and files apart."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[len(text) - most + half + 1 :]}"


def _or_any(word: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """Return options for values, headed by one that asks for nothing."""
    return [(word, ""), *((value, value) for value in values)]


def _dropdown(name: str, options: Sequence[object]) -> widgets.Dropdown:
    return widgets.Dropdown(
        description=name,
        options=options,
        layout=_wide(215),
        style={"description_width": "58px"},
    )


def _wide(pixels: int) -> dict[str, str]:
    return {"width": f"{pixels}px"}


HERE = "this run"
IMAGENET = "ImageNet-1K"
LIBRARIES = ("torchvision", "timm")  # where an entry may have published weights
_FACTS = {"bn_layers", "bn_channels", "parameters", "flops", "accuracy"}


def candidates(run: Run, local: Iterable[Candidate] = ()) -> list[Candidate]:
    """Return what can be picked for a run, as entries of a catalogue.

    Networks with batch norm that the run has trained come first, under their names; then those of
    its neighbours on the same classes, as NAME@FILE; their `library` says whose they are, and
    `accuracy` what was measured on held-out images. Then come files of one's own, and the
    catalogue.

    Args:
        run: The run.
        local: The files of one's own, as `local_weights` lists them.
    """
    neighbours = sorted(path.parent for path in run.path.parent.glob("*/config.yaml"))
    folders = [run.path, *(folder for folder in neighbours if folder != run.path)]
    made = [one for folder in folders for one in _made(run, folder)]
    listed = [Candidate(**vars(entry), measured_on=IMAGENET) for entry in read_catalogue()]
    return [*made, *local, *listed]


def _made(run: Run, folder: Path) -> Iterator[Candidate]:
    """Yield the networks that a run has trained: its own by name, a neighbour's by their files."""
    for path in sorted(folder.glob("teachers/units/*.json")):
        marker = fileio.read_record(path)
        record, made = marker.get("record"), marker.get("files")
        if not isinstance(record, dict) or not record.keys() >= _FACTS or not record["bn_layers"]:
            continue
        name, file = str(marker.get("unit")), folder / next(iter(made or {"": ""}))
        note = _note(file)
        if folder == run.path:
            yield _candidate(run, name, name, HERE, record, note)
        elif note and note.classes == tuple(info["folder"] for info in run.read_classes() or []):
            given = f"{architecture_of(name)}@{file}"
            yield _candidate(run, given, name, f"run {folder.name}", record, note)


def _note(file: Path) -> WeightsMetadata | None:
    """Return the metadata in a weights file of a run; None where it cannot be read."""
    try:
        return read_metadata(file)
    except PrismError:
        return None


def _candidate(
    run: Run,
    name: str,
    network: str,
    origin: str,
    record: dict[str, Any],
    note: WeightsMetadata | None,
) -> Candidate:
    return Candidate(
        name=name,
        library=origin,
        family=family_of(network),
        bn_layers=record["bn_layers"],
        bn_channels=record["bn_channels"],
        parameters=record["parameters"],
        flops=record["flops"],
        input_size=note.size if note else 0,
        weights={"measured": 100 * record["accuracy"]},
        licence="",
        measured_on=_data_of(run.settings),
    )


def _data_of(settings: Settings) -> str:
    """Return what the dataset is called that a run, and neighbours of its classes, work with."""
    own_folder = settings.dataset == "folder" and settings.data_dir
    return Path(settings.data_dir or "").name if own_folder else settings.dataset


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
_FIELDS = (
    "selection",
    "resample_every",
    "primary_in_bn",
    "num_bn_slots",
    "bn_slot_prob",
    "bn_subset_size",
    "bn_fixed",
)


def drawing_methods(settings: Settings) -> list[str]:
    """Return the methods of a run that PRISM's draw is meant for.

    Those are PRISM's own recipes and what is based on them. Rivals stay as published, which is
    why a strategy goes to `recipes` of a method and not to the `recipe` of all.
    """
    return [
        method
        for method in settings.methods
        if str(settings.recipes.get(method, {}).get("base", method)).startswith("prism")
    ]


class DrawControls(widgets.VBox):
    """Controls for the draw of one method at a time; `changes` are those of all.

    Args:
        settings: What they start from.
        changed: Called after every change by hand.
    """

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._begun = {m: _draw_of(settings.recipe_of(m)) for m in drawing_methods(settings)}
        self._now = {method: dict(values) for method, values in self._begun.items()}
        self._loading = False
        self.method = _draw_dropdown("Method", list(self._begun))
        self.selection = _draw_dropdown("Draw", _SELECTIONS)
        self.resample_every = _integer("Steps per draw", 1, 1_000_000)
        self.primary_in_bn = _draw_dropdown("The primary is", _PRIMARY)
        self.exact = _draw_dropdown(
            "How many", [("each slot filled by chance", False), ("an exact number", True)]
        )
        self.num_bn_slots = _integer("Slots", 0, 999)
        self.bn_slot_prob = widgets.BoundedFloatText(
            description="Chance per slot", min=0, max=1, step=0.05, **_look()
        )
        self.bn_subset_size = _integer("Number drawn", 1, 999)
        self.bn_fixed = widgets.SelectMultiple(description="BN teachers", rows=5, **_look())
        self._controls = (
            *(
                self.selection,
                self.resample_every,
                self.primary_in_bn,
                self.exact,
                self.num_bn_slots,
            ),
            *(self.bn_slot_prob, self.bn_subset_size, self.bn_fixed),
        )
        self._box = widgets.Box(self._controls, layout=_flow())
        super().__init__([self.method, self._box] if self._begun else [_nothing()])
        self.offer(settings.teachers, settings.primary)
        self.method.observe(lambda _: self._look_at(), names="value")
        for control in self._controls:
            control.observe(lambda _: self._store(), names="value")
        self._load()

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """What differs from the start, by method: values of `recipes` in settings."""
        found = {
            method: {n: v for n, v in values.items() if v != self._begun[method][n]}
            for method, values in self._now.items()
        }
        return {method: values for method, values in found.items() if values}

    def offer(self, pool: tuple[str, ...], primary: str) -> None:
        """Let `fixed` name the members of a pool; those that have left it are taken out."""
        others = [name for name in pool if name != primary]
        for values in self._now.values():
            values["bn_fixed"] = [name for name in values["bn_fixed"] if name in others]
        self._loading = True
        # A browser that still had the old selection would look for it among the new options.
        self.bn_fixed.value = ()
        self.bn_fixed.options = others
        self._loading = False
        self._load()

    def _look_at(self) -> None:
        self._load()
        self._changed()

    def _load(self) -> None:
        """Show the values of the method that is looked at."""
        if self.method.value is None:
            return
        values = self._now[self.method.value]
        self._loading = True
        for name in _FIELDS:
            if name not in {"bn_subset_size", "bn_fixed"}:
                getattr(self, name).value = values[name]
        self.exact.value = values["bn_subset_size"] is not None
        self.bn_subset_size.value = values["bn_subset_size"] or 1
        self.bn_fixed.value = values["bn_fixed"]
        self._loading = False
        self._show_what_matters()

    def _store(self) -> None:
        if self._loading:
            return
        values = self._now[self.method.value]
        for name in _FIELDS:
            values[name] = getattr(self, name).value
        values["bn_subset_size"] = self.bn_subset_size.value if self.exact.value else None
        values["bn_fixed"] = list(self.bn_fixed.value)
        self._show_what_matters()
        self._changed()

    def _show_what_matters(self) -> None:
        kind, drawn = self.selection.value, self.selection.value in {"pre", "intra"}
        _show(self.resample_every, kind == "intra")
        _show(self.exact, drawn)
        _show(self.num_bn_slots, drawn and not self.exact.value)
        _show(self.bn_slot_prob, drawn and not self.exact.value)
        _show(self.bn_subset_size, drawn and self.exact.value)
        _show(self.bn_fixed, kind == "fixed")


def _nothing() -> widgets.HTML:
    text = "Nothing to set: no method of this run draws BN teachers from the pool as PRISM does. "
    return widgets.HTML(
        note_html(text + "Add one to methods, such as prism, to choose how.", "plain")
    )


def _draw_of(recipe: Recipe) -> dict[str, Any]:
    values = recipe.plain()
    return {name: values[name] for name in _FIELDS}


def _show(control: widgets.Widget, shown: bool) -> None:
    control.layout.display = "" if shown else "none"


def _look() -> dict[str, Any]:
    return {"layout": {"width": "400px"}, "style": {"description_width": "110px"}}


def _flow() -> dict[str, str]:
    return {"flex_flow": "row wrap"}


def _draw_dropdown(name: str, options: Any) -> widgets.Dropdown:
    return widgets.Dropdown(description=name, options=options, **_look())


def _integer(name: str, least: int, most: int) -> widgets.BoundedIntText:
    return widgets.BoundedIntText(description=name, min=least, max=most, **_look())


def check_can_join_pool(name: str, dataset: ImageDataset) -> None:
    """Check that a network classifies a dataset's images and has statistics to align.

    Without weights it is tried on shapes alone, so that large networks take no longer.

    Raises:
        UsageError: No such network or weights, no BN layers, or another size or head.
    """
    classes, size = len(dataset.classes), dataset.image_size
    if is_pretrained_name(name):
        check_weights_present([name])
        taken = open_pretrained(name, dataset)
        network, size = taken.network, taken.preprocess.size
    else:
        network = build_on_meta(name, classes=classes, image_size=size)
    check_bn(name, network)
    check_forward(name, network, classes=classes, image_size=size)


FOLDER = "weights"
LOCAL = "local file"
_ENDS = re.compile(r"[-._@]")  # what may follow an architecture in a file's name


@dataclass(frozen=True)
class LocalWeights:
    """What lies in the folder.

    Attributes:
        candidates: A candidate per file whose name tells its network.
        others: The other files, from the clone; they can be added by name, as NETWORK@FILE.
    """

    candidates: tuple[Candidate, ...]
    others: tuple[str, ...]


def local_weights() -> LocalWeights:
    """Return the files in the clone's folder `weights`, by name; subfolders are not looked into.

    No file's weights are read, and nothing in it is run: its network is the one of the catalogue
    whose name the file's begins with (`named_in`), and its pixels are what the kit noted in the
    head of a .safetensors file. What does not fit is refused in words when it joins a pool.
    """
    try:
        folder = project_root() / FOLDER
    except UsageError:
        return LocalWeights((), ())
    found = [path for path in sorted(folder.glob("*")) if path.suffix in WEIGHT_FILES]
    named = {path: named_in(path.stem) for path in found}
    return LocalWeights(
        tuple(_local_candidate(path, entry) for path, entry in named.items() if entry is not None),
        tuple(f"{FOLDER}/{path.name}" for path, entry in named.items() if entry is None),
    )


def named_in(stem: str) -> Entry | None:
    """Return the network that a file's name begins with, its ending left out.

    That is the longest name of the catalogue which ends with the file's or before one of `-`, `.`,
    `_` and `@`: resnet18 of `resnet18`, `resnet18-5c106cde` and `resnet18_mine`, and
    wide_resnet50_2 of `wide_resnet50_2.best`. None where there is no such network.
    """
    ends = [len(stem), *(match.start() for match in reversed([*_ENDS.finditer(stem)]))]
    entries = (find_entry(stem[:end]) for end in ends)
    return next((entry for entry in entries if entry is not None), None)


def _local_candidate(path: Path, entry: Entry) -> Candidate:
    name = f"{entry.name}@{FOLDER}/{path.name}"
    own = {"name": name, "library": LOCAL, "input_size": _size_of(name), "licence": ""}
    return Candidate(**{**vars(entry), **own, "weights": {}})


def _size_of(name: str) -> int:
    """Return the side of the images that a file's network was trained on, in pixels; 0: unknown."""
    try:
        preprocess = resolve_weights(name).preprocess
    except PrismError:  # damaged: said when it joins a pool
        return 0
    return preprocess.size if preprocess else 0


def network_facts(name: str, *, classes: int, image_size: int) -> NetworkInfo:
    """Return a network's numbers at the size at which a run shows it images; it is not computed.

    Args:
        name: With or without weights.
        classes: Of the dataset.
        image_size: Of the dataset's images; weights may ask for another.

    Raises:
        UsageError: No such network.
    """
    preprocess = resolve_weights(name).preprocess if is_pretrained_name(name) else None
    return _counted(architecture_of(name), classes, preprocess.size if preprocess else image_size)


@lru_cache(maxsize=512)
def _counted(architecture: str, classes: int, image_size: int) -> NetworkInfo:
    network = build_on_meta(architecture, classes=classes, image_size=image_size)
    return network_info(architecture, network, image_size=image_size)


def step_costs(found: SelectionProbs, facts: Mapping[str, NetworkInfo]) -> dict[str, float]:
    """Return the expected operations of each network in a step, per image and forward pass.

    A network without BN layers is not run for its statistics, only for logits.
    """
    flops = {name: facts[name].flops for name in found.runs}
    return {
        name: cost if facts[name].bn_layers else found.gives_logits.get(name, 0.0) * flops[name]
        for name, cost in found.flops(flops).items()
    }


def preview_html(settings: Settings, method: str, facts: Mapping[str, NetworkInfo]) -> str:
    """Describe the steps of a method: sentences, then a line per network."""
    recipe = settings.recipe_of(method).for_image_index(0)
    found = selection_probs(recipe, settings.primary, settings.teachers)
    costs = step_costs(found, facts)
    alone = facts[settings.primary].flops
    sizes = ", ".join(
        f"{size} in {100 * chance:.1f} %" for size, chance in sorted(found.sizes.items())
    )
    sentences = [
        f"A step of {method} uses {found.teachers:.2f} networks on average ({sizes} of the "
        f"steps) and runs {found.networks:.2f}.",
        f"It costs {sum(costs.values()) / alone:.2f} times a step with the primary alone: forward "
        "and backward passes, counted in convolutions and matrix products.",
    ]
    rows = [_row(name, settings, found, costs, facts[name]) for name in settings.teachers]
    return "".join(note_html(text, "plain") for text in sentences) + _table(rows)


def _row(
    name: str,
    settings: Settings,
    found: SelectionProbs,
    costs: Mapping[str, float],
    facts: NetworkInfo,
) -> list[str]:
    share = costs.get(name, 0.0) / sum(costs.values())
    aligned = found.aligned.get(name, 0.0)
    return [
        html.escape(name),
        family_of(name),
        f"{facts.bn_layers} / {facts.bn_channels:,}",
        f"{facts.flops / 1e9:.3g}",
        f"{100 * found.gives_logits.get(name, 0.0):.0f} %",
        f"{_bar(aligned)} {100 * aligned:.1f} %",
        f"{_bar(share)} {100 * share:.1f} %",
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = (
        "network",
        "family",
        "BN layers / channels",
        "GFLOP",
        "logits in",
        "BN statistics in",
        "share of cost",
    )
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def _bar(share: float) -> str:
    return f'<span class="prism-bar" style="width:{round(40 * share)}px"></span>'


def comparison_html(found: Comparison) -> str:
    """Draw two heat maps with their numbers; what could not be compared is named with a reason."""
    parts = []
    if len(found.names) > 1:
        count = f"{found.images} real held-out images"
        parts += [
            _heat(found.names, found.cka, f"Linear CKA of features, {count} (1: the same space)"),
            _heat(found.names, found.agreement, f"Equal top-1 classes, share of {count}"),
        ]
    elif not found.missing:
        parts.append(
            note_html("Two networks are needed for a comparison; add one to the pool.", "note")
        )
    if found.missing:
        names = "; ".join(f"{name}: {reason}" for name, reason in found.missing.items())
        advice = "Train them with the cell below, then compare again."
        parts.append(note_html(f"Not compared: {names}. {advice}", "note"))
    return "".join(parts)


def _heat(names: Sequence[str], values: np.ndarray, title: str) -> str:
    numbers = "".join(f'<th scope="col">{place + 1}</th>' for place in range(len(names)))
    rows = "".join(
        f'<tr><th scope="row">{place + 1} {html.escape(name)}</th>'
        + "".join(map(_cell, values[place]))
        + "</tr>"
        for place, name in enumerate(names)
    )
    caption = f"<caption>{html.escape(title)}</caption>"
    return f'<table class="prism-heat">{caption}<tr><th></th>{numbers}</tr>{rows}</table>'


def _cell(value: float) -> str:
    if np.isnan(value):
        return "<td>–</td>"
    return f'<td style="background:rgba(68,119,170,{0.75 * value:.2f})">{value:.2f}</td>'


def pool_warnings(settings: Settings, bn_layers: Mapping[str, int]) -> list[str]:
    """Return what may be unwanted though it is possible, a sentence each.

    Args:
        settings: A pick that can be used.
        bn_layers: Number of BN layers of each network of the pool.
    """
    return [
        *_without_bn(settings.teachers, bn_layers),
        *_same_family(settings.primary, settings.teachers),
        *_measured_by_the_pool(settings),
    ]


def _without_bn(pool: Sequence[str], bn_layers: Mapping[str, int]) -> list[str]:
    return [
        f"{name} has no BN layers: it can label, but as a BN teacher it gives no statistics."
        for name in pool
        if bn_layers[name] == 0
    ]


def _same_family(primary: str, pool: Sequence[str]) -> list[str]:
    others = [name for name in pool if name != primary]
    if not others:
        return ["The primary is alone: no other architecture brings statistics of its own."]
    family = family_of(primary)
    same = [name for name in others if family_of(name) == family]
    if not same:
        return []
    are, share = ("is", "shares") if len(same) == 1 else ("are", "share")
    only = "; no other family is in the pool" if len(same) == len(others) else ""
    return [
        f"{_listed(same)} {are} of the primary's family ({family}), and so {share} its "
        f"architectural prior{only}."
    ]


def _measured_by_the_pool(settings: Settings) -> list[str]:
    """Name networks that measure the images and also made them, as such or by architecture."""
    teachers = {architecture_of(name): name for name in settings.teachers}
    found = []
    for name in settings.feature_spaces:
        if name in settings.teachers:
            found.append(
                f"{name} measures diversity and is in the pool: images that were fitted to a "
                "network look better to it than to others."
            )
        elif architecture_of(name) in teachers:
            found.append(
                f"{name} measures diversity and has the architecture of "
                f"{teachers[architecture_of(name)]} in the pool; one apart measures more fairly."
            )
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class PoolList(widgets.VBox):
    """The networks of a pool; `names` is the pool, and `primary` one of it or None.

    A primary that leaves the pool is missed, not replaced: another one gives other images.

    Args:
        names: The pool to start with.
        primary: Its primary.
        changed: Called after another primary is chosen, or networks are taken out, by hand.
    """

    def __init__(self, names: tuple[str, ...], primary: str, changed: Callable[[], None]) -> None:
        self._wanted, self._showing = primary, False
        self._changed = changed
        self.names = names
        self.members = widgets.SelectMultiple(
            description="Pool", rows=6, layout={"width": "auto"}
        ).add_class("prism-list")
        self.remove = widgets.Button(
            description="Remove from pool", tooltip="Take the selected networks out of the pool"
        )
        self.chosen = widgets.Dropdown(description="Primary", layout={"width": "420px"})
        super().__init__([self.members, widgets.HBox([self.remove, self.chosen])])
        self._show()
        self.chosen.observe(self._choose, names="value")
        self.remove.on_click(self._remove)

    @property
    def primary(self) -> str | None:
        """The primary, where one of the pool is chosen."""
        chosen: str | None = self.chosen.value
        return chosen

    @property
    def missed(self) -> str:
        """The primary that was chosen last, in the pool or not."""
        return self._wanted

    def put(self, names: tuple[str, ...]) -> None:
        """Make networks the pool; the primary that was wanted last is kept where it is in it."""
        self.names = tuple(dict.fromkeys(names))
        self._show()

    def _remove(self, _: object) -> None:
        self.put(tuple(name for name in self.names if name not in self.members.value))
        self._changed()

    def _show(self) -> None:
        self._showing = True
        # A browser that still had the old selection would look for it among the new options.
        self.members.value = ()
        self.members.options = self.names
        # New options choose the first of them by themselves; nobody has chosen it.
        self.chosen.options = self.names
        self.chosen.value = self._wanted if self._wanted in self.names else None
        self._showing = False

    def _choose(self, _: object) -> None:
        if not self._showing:
            self._wanted = self.chosen.value or self._wanted
            self._changed()
