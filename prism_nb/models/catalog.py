"""Catalogue of the architectures with batch norm in torchvision and timm, shipped as a CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import islice
from typing import Any

from prism_nb.models.architectures import architecture_of, resolve_architecture


@dataclass(frozen=True)
class Entry:
    """An architecture with batch norm, in numbers."""

    name: str  # a name that `build_network` takes
    library: str  # `torchvision` or `timm`
    family: str  # see `family_of`
    bn_layers: int  # number of BatchNorm2d layers
    bn_channels: int  # channels over all of them, which is the number of values per statistic
    parameters: int  # trainable values, with a head of 1,000 classes
    flops: int  # operations of one image's forward pass at `input_size`; a multiply-add is two
    input_size: int  # side of the images that it is made for, in pixels
    # Top-1 accuracy on ImageNet-1K in % by tag of the published weights, if known
    weights: dict[str, float | None]
    licence: str  # licence of the first weights, if known

    @property
    def accuracy(self) -> float | None:
        """The best published top-1 accuracy on ImageNet-1K, in %, where any is known."""
        return max((value for value in self.weights.values() if value is not None), default=None)

    def with_weights(self, tag: str) -> str:
        """Return the name of this network with published weights: `NAME@TAG` or timm's NAME.TAG."""
        if self.library == "torchvision":
            return f"{self.name}@{tag}"
        return f"{self.name.removeprefix('timm/')}.{tag}"

    @property
    def names(self) -> list[str]:
        """Its name with each of the published weights, the most accurate first, and without any."""
        if self.library == "this run":
            return [self.name]
        tags = sorted(self.weights, key=lambda tag: -(self.weights[tag] or 0.0))
        return [*map(self.with_weights, tags), self.name]


SORTS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name,
    "family": lambda entry: (entry.family, entry.flops),
    "fewest GFLOP": lambda entry: entry.flops,
    "fewest parameters": lambda entry: entry.parameters,
    "most BN layers": lambda entry: -entry.bn_layers,
    "best accuracy": lambda entry: -(entry.accuracy or 0.0),
}


@lru_cache(maxsize=1)
def read_catalogue() -> tuple[Entry, ...]:
    """Return the catalogue in the file's order: torchvision's networks, then timm's, by name."""
    text = resources.files("prism_nb.models").joinpath("networks.csv").read_text(encoding="utf-8")
    return tuple(map(_entry, csv.DictReader(text.splitlines())))


def filtered(
    entries: Iterable[Entry],
    *,
    words: str = "",
    family: str = "",
    library: str = "",
    gflop: float | None = None,
    sort: str = "",
) -> list[Entry]:
    """Return the entries that meet every condition, sorted.

    `words` are parts of a name or family, each of which must occur, in any case; `gflop` is the
    upper limit of a forward pass, in 10^9 operations; `sort` is one of `SORTS`. What is empty or
    None limits nothing.
    """
    parts = words.lower().split()
    found = [
        entry
        for entry in entries
        if all(part in f"{entry.name} {entry.family}".lower() for part in parts)
        and family in {"", entry.family}
        and library in {"", entry.library}
        and (gflop is None or entry.flops <= gflop * 1e9)
    ]
    return sorted(found, key=SORTS[sort]) if sort else found


def suggest_pool(
    entries: Iterable[Entry],
    first: str,
    count: int,
    *,
    name_of: Callable[[Entry], str | None] = lambda entry: entry.name,
    likeness: Mapping[frozenset[str], float] | None = None,
) -> list[str]:
    """Return a network and others of as many families, as far as there are any.

    Of each family it is the most accurate network that fits, one that the run has trained before
    others. Of the families, those come first that were compared with the whole pool so far, the
    least alike first; then those that the run has trained; then the most accurate.

    Args:
        entries: The candidates, such as those up to a cost.
        first: The network that the pool begins with.
        count: Number of networks.
        name_of: The name under which a candidate joins, such as one with weights; None where it
            cannot be used.
        likeness: Similarity of two networks, such as their CKA, for pairs that were compared; other
            weights of an architecture count as the same network.
    """

    def by_accuracy(entry: Entry) -> tuple[Any, ...]:
        return entry.library != "this run", -(entry.accuracy or 0.0), entry.flops

    def architectures(names: Iterable[str]) -> frozenset[tuple[str, str]]:
        return frozenset(resolve_architecture(architecture_of(name)) for name in names)

    compared_pairs = {architectures(pair): value for pair, value in (likeness or {}).items()}

    def by_likeness(entry: Entry) -> tuple[Any, ...]:
        known = [compared_pairs.get(architectures((entry.name, other))) for other in pool]
        alike = [value for value in known if value is not None]
        compared = len(alike) == len(pool)
        return not compared, max(alike) if compared else 0.0, *by_accuracy(entry)

    pool, families = [first], dict[str, list[Entry]]()
    for entry in sorted(entries, key=by_accuracy):
        families.setdefault(entry.family, []).append(entry)
    families.pop(family_of(first), None)
    while families and len(pool) < count:
        family = min(families, key=lambda name: by_likeness(families[name][0]))
        pool += islice(filter(None, map(name_of, families.pop(family))), 1)
    return pool


def family_of(name: str) -> str:
    """Return the family of a network: the library's file that builds it, without a version.

    So `resnet18`, `wide_resnet50_2` and timm's `resnetv2_50` are of one family, `resnet`.

    Raises:
        UsageError: Neither library has it.
    """
    library, model = resolve_architecture(architecture_of(name))
    if library == "kit":
        return "convnet"
    for family in ("mobilenet", "mnasnet"):  # timm has them in files named after other families
        if model.startswith(family):
            return family
    import timm
    import torchvision

    builders = torchvision.models.get_model_builder, timm.models.model_entrypoint
    module = builders[library == "timm"](model).__module__.rpartition(".")[2]
    return re.sub(r"_?v\d+$", "", module)


def _entry(row: dict[str, Any]) -> Entry:
    weights = (item.partition("=") for item in row["weights"].split())
    counts = ("bn_layers", "bn_channels", "parameters", "flops", "input_size")
    values = row | {name: int(row[name]) for name in counts}
    values["weights"] = {tag: float(value) if value else None for tag, _, value in weights}
    return Entry(**values)
