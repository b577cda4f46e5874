"""Teacher picker: the pool, its primary and the draw of BN teachers, chosen by hand."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch

from prism_nb.core import fileio
from prism_nb.core.config import build_settings, merge
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.presets import project_root
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
from prism_nb.models.weights import check_weights_present, read_metadata, resolve_weights
from prism_nb.models.zoo import (
    WEIGHT_FILES,
    NetworkInfo,
    architecture_of,
    build_on_meta,
    check_forward,
    network_info,
)
from prism_nb.synthesis.teacher_sampling import sample_schedule
from prism_nb.viz.widgets.base import (
    RunOrPath,
    RunWidget,
    control_style,
    css,
    dropdown,
    heading,
    note_html,
    set_options,
)

_HINT = (
    "Networks without batch norm are not listed: they cannot be BN teachers. Parameters and GFLOP "
    "count a head of 1,000 classes at the network's own image size (px); top-1, in %, is on "
    "ImageNet-1K, or on this dataset for networks that a run has trained. A file in the folder "
    "weights is listed if its name begins with a network's; add any other by name, as "
    "NETWORK@weights/FILE."
)


class TeacherPicker(RunWidget):
    """Candidates to filter, the pool, the draw, and what the pick means per step.

    Args:
        place: The run, or its folder. `value` is equal to the run's settings until touched.
    """

    def __init__(self, place: RunOrPath) -> None:
        super().__init__(place)
        self.add_class("prism-picker").add_class("prism-tables")

    def _build(self) -> list[widgets.Widget]:
        settings = self._run.settings
        self.candidates = CandidateList(candidates(self._run))
        self.weights = dropdown("Weights", [], width=420)
        self.join = widgets.Button(description="Add to pool")
        self.name = widgets.Text(
            description="By name",
            placeholder="e.g. resnet18@weights/mine.pth",
            **control_style(420),
        )
        self.add = widgets.Button(description="Add")
        self.message, self.warnings, self.preview = (widgets.HTML() for _ in range(3))
        self.status, self.similarity = widgets.HTML(), widgets.HTML()
        self.pool = PoolList(settings.teachers, settings.primary, self._pool_changed)
        self.draw = DrawControls(settings, self._refresh)
        self.compare = widgets.Button(
            description="Compare", tooltip="Compare the pool's networks on real held-out images"
        )
        self.candidates.list.observe(lambda _: self._offer_weights(), names="value")
        self.join.on_click(lambda _: self._add_selected())
        self.add.on_click(lambda _: self._add_named())
        self.compare.on_click(lambda _: self._compare_networks())
        self._offer_weights()
        self._refresh()
        return [
            *(css(), heading("Candidates"), self.candidates),
            widgets.HBox([self.weights, self.join]),
            widgets.HBox([self.name, self.add]),
            *(self.message, widgets.HTML(note_html(_HINT))),
            *(heading("Pool"), self.pool),
            *(heading("Draw of BN teachers"), self.draw),
            *(heading("What it means"), self.warnings, self.preview),
            *(self.compare, self.similarity, self.status),
        ]

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
                f"no primary: {self.pool.wanted} has left the pool; choose another one, or add it "
                "again"
            )
        return build_settings(merge(run.settings.plain(), self._picked()), where="the picker")

    def _picked(self) -> dict[str, Any]:
        picked: dict[str, Any] = {"teachers": list(self.pool.names), "primary": self.pool.primary}
        changes = self.draw.changes
        return {**picked, "recipes": changes} if changes else picked

    def _offer_weights(self) -> None:
        """Offer the published weights of a candidate, if exactly one is selected."""
        chosen = self.candidates.chosen
        tags = chosen[0].weights if len(chosen) == 1 and chosen[0].library in _LIBRARIES else {}
        offers = [
            (tag if accuracy is None else f"{tag} ({accuracy:.1f} % on ImageNet-1K)", tag)
            for tag, accuracy in tags.items()
        ]
        self.weights.options = [("none: trained on the run's images", ""), *offers]
        self.weights.value = ""
        self.join.disabled = not chosen

    def _add_selected(self) -> None:
        tag = self.weights.value
        self._add_networks([e.with_weights(tag) if tag else e.name for e in self.candidates.chosen])

    def _add_named(self) -> None:
        if self._add_networks([self.name.value.strip()]):
            self.name.value = ""

    def _add_networks(self, names: list[str]) -> bool:
        """Put networks into the pool if all of them can be used; return whether they can."""
        try:
            dataset = open_dataset(self._run.settings)
            for name in names:
                check_usable(name, dataset)
        except PrismError as error:
            self.message.value = note_html(f"Not added: {error}", "stop")
            return False
        self.message.value = note_html(f"Added: {', '.join(names)}", "good")
        self.pool.put((*self.pool.names, *names))
        self._pool_changed()
        return True

    def _pool_changed(self) -> None:
        self.draw.set_pool(self.pool.names, self.pool.primary)
        self.similarity.value = ""
        self._refresh()

    def _refresh(self) -> None:
        try:
            settings = self.value
            classes = self._run.read_classes() or open_dataset(settings).class_records()
            infos = {
                name: _network_info(name, len(classes), settings.image_size)
                for name in settings.teachers
            }
        except PrismError as error:
            self.warnings.value = self.preview.value = ""
            self.status.value = note_html(f"Not usable: {error}", "stop")
            return
        found = pool_warnings(settings, {name: info.bn_layers for name, info in infos.items()})
        self.warnings.value = "".join(note_html(f"Beware: {text}", "note") for text in found)
        self.preview.value = preview_html(settings, self.draw.method.value, infos)
        code = f"<pre>{html.escape(write_yaml(self._picked()))}</pre>"
        self.status.value = self._verdict(settings) + code

    def _verdict(self, settings: Settings) -> str:
        """Return whether the run can take the pick, given the results that it has."""
        try:
            Run(self._run.path, settings).check_settings()
        except PrismError as error:
            text = f"Not usable in this run: {error}. A preset for another run would read:"
            return note_html(text, "stop")
        return note_html("Ready. The next cell uses these; in a preset they read:", "good")

    def _compare_networks(self) -> None:
        self.similarity.value = note_html("Comparing the networks on real images …")
        try:
            found = compare_networks(self._run, self.pool.names)
            self.similarity.value = comparison_html(found)
        except PrismError as error:
            self.similarity.value = note_html(f"Not compared: {error}", "stop")


def check_usable(name: str, dataset: ImageDataset) -> None:
    """Check that a network can classify a dataset's images and has BN statistics.

    Without weights it is built on shapes alone, so that large networks take no longer.

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


# -- candidates ------------------------------------------------------------------------------

_LIBRARIES = ("torchvision", "timm")  # the libraries that publish weights
_BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # GFLOP
_RECORDED = {"bn_layers", "bn_channels", "parameters", "flops", "accuracy"}


class CandidateList(widgets.VBox):
    """A filter over candidates and a list of those that pass it."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self.text = widgets.Text(
            description="Filter",
            placeholder="parts of a name, e.g. resnet 50",
            **control_style(300),
        )
        families = sorted({entry.family for entry in entries})
        origins = dict.fromkeys(entry.library for entry in entries)
        self.family = dropdown("Family", _or_any("any", families), **_NARROW)
        self.origin = dropdown("From", _or_any("anywhere", origins), **_NARROW)
        bounds = [("any", 0.0), *((f"≤ {bound:g} GFLOP", bound) for bound in _BOUNDS)]
        self.gflop = dropdown("Cost", bounds, **_NARROW)
        self.sort = dropdown("Sort by", _or_any("as listed", SORTS), **_NARROW)
        self.list = widgets.SelectMultiple(
            description="Candidates", rows=10, layout={"width": "auto"}
        ).add_class("prism-list")
        self.count = widgets.HTML()
        controls = (self.text, self.family, self.origin, self.gflop, self.sort)
        for control in controls:
            control.observe(lambda _: self._filter(), names="value")
        self._filter()
        head = f'<div class="prism-head">{html.escape(_HEAD)}</div>'
        super().__init__(
            [
                widgets.HBox(controls[:3]),
                widgets.HBox([*controls[3:], self.count]),
                *(widgets.HTML(head), self.list),
            ]
        )

    @property
    def chosen(self) -> tuple[Entry, ...]:
        """The selected candidates, in the order of the list."""
        return tuple(entry for entry in self._entries if entry.name in self.list.value)

    def _filter(self) -> None:
        found = filtered(
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


_NARROW = {"width": 215, "label": 58}
_COLUMNS = "{:<36} {:<13} {:<13} {:>4} {:>7} {:>8} {:>4} {:>6}"
_HEAD = _COLUMNS.format("network", "family", "from", "BN", "par. M", "GFLOP", "px", "top-1")


def _line(entry: Entry) -> str:
    """Return a candidate as one line, in the columns of `_HEAD`."""
    flops = entry.flops / 1e9
    line = _COLUMNS.format(
        *(_shortened(entry.name, 36), _shortened(entry.family, 13), _shortened(entry.library, 13)),
        *(entry.bn_layers, f"{entry.parameters / 1e6:.2f}", f"{flops:.{2 if flops >= 1 else 4}f}"),
        *(entry.input_size or "", "–" if entry.accuracy is None else f"{entry.accuracy:.1f}"),
    )
    return line.replace(" ", "\u00a0")  # a browser would join plain spaces


def _shortened(text: str, length: int) -> str:
    """Shorten a name in its middle, since both ends distinguish networks and files."""
    half = length // 2
    return text if len(text) <= length else f"{text[: length - half - 1]}…{text[-half:]}"


def _or_any(label: str, values: Mapping[str, Any] | Sequence[str]) -> list[tuple[str, str]]:
    return [(label, ""), *((value, value) for value in values)]


def candidates(run: Run) -> list[Entry]:
    """Return what can be picked for a run: entries whose `library` names their origin.

    First come the networks with batch norm that the run has trained, by name, then those of its
    neighbours on the same classes, as NAME@FILE; then local files, and the catalogue.
    """
    neighbours = sorted(path.parent for path in run.path.parent.glob("*/config.yaml"))
    folders = [run.path, *(folder for folder in neighbours if folder != run.path)]
    trained = [entry for folder in folders for entry in _trained(run, folder)]
    return [*trained, *_local_files(), *read_catalogue()]


def _trained(run: Run, folder: Path) -> Iterator[Entry]:
    """Yield the networks that a run has trained: its own by name, a neighbour's by their files."""
    classes = tuple(info["folder"] for info in run.read_classes() or [])
    for path in sorted(folder.glob("teachers/units/*.json")):
        marker = fileio.read_record(path)
        record, files = marker.get("record"), marker.get("files")
        if not isinstance(record, dict) or not record.keys() >= _RECORDED or not files:
            continue
        file, name = folder / next(iter(files)), str(marker.get("unit"))
        try:
            metadata = read_metadata(file)
        except PrismError:
            continue
        if metadata is None or not record["bn_layers"]:
            continue
        own = folder == run.path
        if own or metadata.classes == classes:
            yield Entry(
                name=name if own else f"{architecture_of(name)}@{file}",
                library="this run" if own else f"run {folder.name}",
                family=family_of(name),
                **{key: record[key] for key in _RECORDED - {"accuracy"}},
                input_size=metadata.size,
                weights={"measured": 100 * record["accuracy"]},
                licence="",
            )


def _local_files() -> Iterator[Entry]:
    """Yield the files of the clone's folder `weights` whose names begin with a network's."""
    try:
        folder = project_root() / "weights"
    except UsageError:
        return
    for path in sorted(folder.glob("*")):
        entry = named_in(path.stem) if path.suffix in WEIGHT_FILES else None
        if entry is not None:
            name = f"{entry.name}@weights/{path.name}"
            yield replace(entry, name=name, library="local file", input_size=0, weights={})


def named_in(stem: str) -> Entry | None:
    """Return the network whose name a file's name begins with, the longest; None if there is none.

    Such as resnet18 of `resnet18`, `resnet18-5c106cde` and `resnet18_mine`: the name ends where
    the file's does, or before one of `-`, `.`, `_` and `@`.
    """
    parts = re.split(r"([-._@])", stem)
    names = ("".join(parts[:end]) for end in range(len(parts), 0, -2))
    return next((entry for name in names if (entry := find_entry(name)) is not None), None)


# -- the pool --------------------------------------------------------------------------------


class PoolList(widgets.VBox):
    """The networks of a pool, and its primary; `changed` is called after a change by hand.

    A primary that leaves the pool is not replaced, since another one gives other images.
    """

    def __init__(self, names: tuple[str, ...], primary: str, changed: Callable[[], None]) -> None:
        self.names, self.wanted = names, primary
        self._changed, self._updating = changed, False
        self.members = widgets.SelectMultiple(
            description="Pool", rows=6, layout={"width": "auto"}
        ).add_class("prism-list")
        self.remove = widgets.Button(description="Remove from pool")
        self.choice = dropdown("Primary", [], width=420)
        self.choice.observe(lambda _: self._choose(), names="value")
        self.remove.on_click(lambda _: self._remove())
        self.put(names)
        super().__init__([self.members, widgets.HBox([self.remove, self.choice])])

    @property
    def primary(self) -> str | None:
        """The chosen primary; None if it has left the pool."""
        return self.wanted if self.wanted in self.names else None

    def put(self, names: tuple[str, ...]) -> None:
        """Replace the pool's networks; doubled names count once."""
        self.names = tuple(dict.fromkeys(names))
        self._updating = True  # new options choose their first by themselves
        set_options(self.members, self.names)
        self.choice.options = self.names
        self.choice.value = self.primary
        self._updating = False

    def _remove(self) -> None:
        self.put(tuple(name for name in self.names if name not in self.members.value))
        self._changed()

    def _choose(self) -> None:
        if not self._updating and self.choice.value is not None:
            self.wanted = self.choice.value
            self._changed()


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


class DrawControls(widgets.VBox):
    """Controls for the draw of BN teachers, of one method at a time.

    They start from the settings; `changed` is called after every change by hand.
    """

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        self._changed, self._loading = changed, False
        recipes = {method: settings.recipe_of(method) for method in drawing_methods(settings)}
        most = max([20, *(recipe.bn_subset_size or 0 for recipe in recipes.values())])
        exact = [(f"exactly {size}", size) for size in range(1, most + 1)]
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
            "bn_fixed": widgets.SelectMultiple(description="BN teachers", rows=5, **wide),
        }
        self._initial = {
            method: {name: recipe.plain()[name] for name in self.fields}
            for method, recipe in recipes.items()
        }
        self._values = deepcopy(self._initial)
        self.method = dropdown("Method", list(self._initial), label=110)
        self.method.observe(lambda _: self._load(), names="value")
        for control in self.fields.values():
            control.observe(lambda _: self._store(), names="value")
        self.set_pool(settings.teachers, settings.primary)
        box = widgets.Box([*self.fields.values()], layout={"flex_flow": "row wrap"})
        super().__init__([self.method, box] if self._initial else [widgets.HTML(_NO_DRAW)])

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """Differences from the start, by method: values of `recipes` in settings."""
        found = {
            method: {n: v for n, v in values.items() if v != self._initial[method][n]}
            for method, values in self._values.items()
        }
        return {method: values for method, values in found.items() if values}

    def set_pool(self, pool: tuple[str, ...], primary: str | None) -> None:
        """Let `fixed` name the members of a pool other than its primary."""
        others = [name for name in pool if name != primary]
        for values in self._values.values():
            values["bn_fixed"] = [name for name in values["bn_fixed"] if name in others]
        self._loading = True
        set_options(self.fields["bn_fixed"], others)
        self._loading = False
        self._load()

    def _load(self) -> None:
        """Show the values of the chosen method."""
        if self.method.value is None:
            return
        self._loading = True
        for name, value in self._values[self.method.value].items():
            self.fields[name].value = 0 if value is None else value  # None would select nothing
        self._loading = False
        self._show_relevant()

    def _store(self) -> None:
        if self._loading:
            return
        values = {name: control.value for name, control in self.fields.items()}
        values["bn_fixed"] = list(values["bn_fixed"])
        values["bn_subset_size"] = values["bn_subset_size"] or None
        self._values[self.method.value] = values
        self._show_relevant()
        self._changed()

    def _show_relevant(self) -> None:
        """Hide the controls that do not count for the chosen way to draw."""
        kind, by_slots = self.fields["selection"].value, not self.fields["bn_subset_size"].value
        drawn = kind in {"pre", "intra"}
        relevant = {
            "resample_every": kind == "intra",
            "bn_subset_size": drawn,
            "num_bn_slots": drawn and by_slots,
            "bn_slot_prob": drawn and by_slots,
            "bn_fixed": kind == "fixed",
        }
        for name, shown in relevant.items():
            self.fields[name].layout.display = "" if shown else "none"


_NO_DRAW = note_html(
    "Nothing to set: no method of this run draws BN teachers from the pool as PRISM does. Add one "
    "to methods, such as prism, to choose how.",
    "plain",
)


def drawing_methods(settings: Settings) -> list[str]:
    """Return the methods of a run that draw as PRISM does; the others stay as published."""
    return [
        method
        for method in settings.methods
        if str(settings.recipes.get(method, {}).get("base", method)).startswith("prism")
    ]


# -- what a pick means -----------------------------------------------------------------------


@lru_cache(maxsize=512)
def _network_info(name: str, classes: int, image_size: int) -> NetworkInfo:
    """Return a network's numbers at the image size at which the run uses it; nothing is computed.

    Args:
        name: With or without weights.
        classes: Number of classes of the dataset.
        image_size: Side of the dataset's images, in pixels; weights may need another.

    Raises:
        UsageError: No such network.
    """
    own = resolve_weights(name).preprocess if is_pretrained_name(name) else None
    size, architecture = own.size if own else image_size, architecture_of(name)
    network = build_on_meta(architecture, classes=classes, image_size=size)
    return network_info(architecture, network, image_size=size)


def sample_steps(
    recipe: Recipe, primary: str, pool: Sequence[str]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the BN teachers and the logit teachers of about 1,000 steps, each with its own draw.

    Args:
        recipe: The method, checked against the pool.
        primary: The pool's primary.
        pool: All networks.
    """
    turns = max(1, len(pool) * (len(pool) - 1))  # so that networks in turn come equally often
    changes: dict[str, Any] = {"iterations": turns * -(-1000 // turns), "resample_every": 1}
    if recipe.selection == "pre":
        changes["selection"] = "intra"
    generator = torch.Generator().manual_seed(0)
    schedule = sample_schedule(recipe.model_copy(update=changes), primary, pool, generator)
    steps = range(changes["iterations"])
    return [(schedule.bn_teachers_at(step), schedule.logit_teachers_at(step)) for step in steps]


def preview_html(settings: Settings, method: str | None, infos: Mapping[str, NetworkInfo]) -> str:
    """Describe a step of a method: sentences, then a row per network of the pool.

    Args:
        settings: A usable pick.
        method: The method; None if none draws from the pool.
        infos: The pool's networks.
    """
    if method is None:
        return note_html(
            f"The methods of this run ({', '.join(settings.methods)}) use the pool as they were "
            f"published, the primary {settings.primary} first; `prism-nb methods` lists how.",
            "plain",
        )
    recipe = settings.recipe_of(method).for_image_index(0)
    steps = sample_steps(recipe, settings.primary, settings.teachers)
    in_bn = {name: _share(name in bn for bn, _ in steps) for name in infos}
    in_logits = {name: _share(name in logits for _, logits in steps) for name in infos}
    costs = {  # a network without BN layers runs only for its logits
        name: info.flops
        * _share(name in logits or bool(info.bn_layers and name in bn) for bn, logits in steps)
        for name, info in infos.items()
    }
    total, sizes = sum(costs.values()), Counter(len(bn) for bn, _ in steps)
    mean = sum(sizes.elements()) / len(steps)
    chances = ", ".join(f"{n} in {count / len(steps):.0%}" for n, count in sorted(sizes.items()))
    sentence = (
        f"A step of {method} draws about {mean:.1f} BN teachers ({chances} of {len(steps):,} "
        f"sampled steps) and costs about {total / infos[settings.primary].flops:.1f} times a step "
        "with the primary alone: forward and backward, in convolutions and matrix products."
    )
    rows = [
        {
            "network": html.escape(name),
            "family": family_of(name),
            "BN layers / channels": f"{info.bn_layers} / {info.bn_channels:,}",
            "GFLOP": f"{info.flops / 1e9:.3g}",
            "logits in": f"{in_logits[name]:.0%}",
            "BN statistics in": _bar(in_bn[name]),
            "share of cost": _bar(costs[name] / total),
        }
        for name, info in infos.items()
    ]
    columns = "".join(f'<th scope="col">{title}</th>' for title in rows[0])
    cells = ["".join(f"<td>{cell}</td>" for cell in row.values()) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"{note_html(sentence, 'plain')}<table><tr>{columns}</tr>{body}</table>"


def _share(values: Iterable[bool]) -> float:
    return float(np.mean([*values]))


def _bar(share: float) -> str:
    return f'<span class="prism-bar" style="width:{round(40 * share)}px"></span> {share:.0%}'


def pool_warnings(settings: Settings, bn_layers: Mapping[str, int]) -> list[str]:
    """Return what is possible but may be unwanted, a sentence each.

    Args:
        settings: A usable pick.
        bn_layers: Number of BN layers of each network of the pool.
    """
    pool, primary, family = settings.teachers, settings.primary, family_of(settings.primary)
    found = [
        f"{name} has no BN layers: it can label, but as a BN teacher it gives no statistics."
        for name in pool
        if bn_layers[name] == 0
    ]
    others = [name for name in pool if name != primary]
    related = [name for name in others if family_of(name) == family]
    if not others:
        found.append("The primary is alone: no other architecture brings statistics of its own.")
    elif related:
        only = "; no other family is in the pool" if related == others else ""
        found.append(
            f"Networks of the primary's family ({family}) share its architectural prior: "
            f"{', '.join(related)}{only}."
        )
    for name in settings.feature_networks_used:
        same = [member for member in pool if architecture_of(member) == architecture_of(name)]
        if same:
            found.append(
                f"{name} measures diversity and {same[0]} of the pool has its architecture: images "
                "look better to a network that they were fitted to."
            )
    return found


def comparison_html(found: Comparison) -> str:
    """Return a comparison of networks as two heat maps with numbers, and what is missing in it."""
    parts = []
    if len(found.names) > 1:
        images = f"{found.images} real held-out images"
        parts += [
            _heat_map(found.names, found.cka, f"Linear CKA of features, {images} (1: equal)"),
            _heat_map(found.names, found.agreement, f"Equal top-1 classes, share of {images}"),
        ]
    elif not found.missing:
        parts.append(note_html("A comparison needs two networks; add one to the pool.", "note"))
    if found.missing:
        names = "; ".join(f"{name}: {reason}" for name, reason in found.missing.items())
        advice = "Train them with the cell below, then compare again."
        parts.append(note_html(f"Not compared: {names}. {advice}", "note"))
    return "".join(parts)


def _heat_map(names: Sequence[str], values: np.ndarray, title: str) -> str:
    """Return a square table of values in [0, 1]; the rows have numbers, the columns only those."""
    numbers = range(1, len(names) + 1)
    rows = [f"{n} {html.escape(name)}" for n, name in zip(numbers, names, strict=True)]
    styler = pd.DataFrame(values, index=rows, columns=numbers).style
    styler = styler.format("{:.2f}", na_rep="–").set_caption(title)
    styler = styler.map(lambda value: f"background: rgba(68, 119, 170, {0.75 * value:.2f})")
    return str(styler.set_table_attributes('class="prism-heat"').to_html())
