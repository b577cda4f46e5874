"""Weights files of one's own: those in the clone's folder `weights`, told by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from prism_nb.catalogue import Entry, entry_of
from prism_nb.config import project_root
from prism_nb.errors import PrismError, UsageError
from prism_nb.teachers.networks import WEIGHT_FILES
from prism_nb.teachers.sources import find_source
from prism_nb.widgets.candidate import Candidate

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
        tuple(_candidate(path, entry) for path, entry in named.items() if entry is not None),
        tuple(f"{FOLDER}/{path.name}" for path, entry in named.items() if entry is None),
    )


def named_in(stem: str) -> Entry | None:
    """Return the network that a file's name begins with, its ending left out.

    That is the longest name of the catalogue which ends with the file's or before one of `-`, `.`,
    `_` and `@`: resnet18 of `resnet18`, `resnet18-5c106cde` and `resnet18_mine`, and
    wide_resnet50_2 of `wide_resnet50_2.best`. None where there is no such network.
    """
    ends = [len(stem), *(match.start() for match in reversed([*_ENDS.finditer(stem)]))]
    entries = (entry_of(stem[:end]) for end in ends)
    return next((entry for entry in entries if entry is not None), None)


def _candidate(path: Path, entry: Entry) -> Candidate:
    name = f"{entry.name}@{FOLDER}/{path.name}"
    own = {"name": name, "library": LOCAL, "input_size": _size_of(name), "licence": ""}
    return Candidate(**{**vars(entry), **own, "weights": {}})


def _size_of(name: str) -> int:
    """Return the side of the images that a file's network was trained on, in pixels; 0: unknown."""
    try:
        space = find_source(name).space
    except PrismError:  # damaged: said when it joins a pool
        return 0
    return space.size if space else 0
