"""The networks that a pool can be picked from: those trained already, then the catalogue's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prism_nb import files
from prism_nb.catalogue import Entry, family_of, read_catalogue
from prism_nb.errors import PrismError
from prism_nb.run import Run
from prism_nb.teachers.checkpoints import read_note
from prism_nb.teachers.networks import architecture_of

HERE = "this run"
LIBRARIES = ("torchvision", "timm")  # where an entry may have published weights
_FACTS = {"bn_layers", "bn_channels", "parameters", "flops", "accuracy"}


def candidates(run: Run) -> list[Entry]:
    """Return what can be picked for a run, as entries of a catalogue.

    Networks with batch norm that the run has trained come first, under their names; then those of
    its neighbours on the same classes, as NAME@FILE; their `library` says whose they are, and
    `accuracy` what was measured on held-out images. Then comes the catalogue.
    """
    neighbours = sorted(path.parent for path in run.path.parent.glob("*/config.yaml"))
    folders = [run.path, *(folder for folder in neighbours if folder != run.path)]
    return [*(one for folder in folders for one in _made(run, folder)), *read_catalogue()]


def _made(run: Run, folder: Path) -> Iterator[Entry]:
    """Yield the networks that a run has trained: its own by name, a neighbour's by their files."""
    for path in sorted(folder.glob("teachers/units/*.json")):
        marker = files.read_record(path)
        record, made = marker.get("record"), marker.get("files")
        if not isinstance(record, dict) or not record.keys() >= _FACTS or not record["bn_layers"]:
            continue
        name, file = str(marker.get("unit")), folder / next(iter(made or {"": ""}))
        note = _note(file)
        if folder == run.path:
            yield _entry(name, name, HERE, record, note)
        elif note.get("classes") == [info["folder"] for info in run.read_classes() or []]:
            given = f"{architecture_of(name)}@{file}"
            yield _entry(given, name, f"run {folder.name}", record, note)


def _note(file: Path) -> dict[str, Any]:
    """Return what a run noted in a weights file; nothing where it cannot be read."""
    try:
        return read_note(file)
    except PrismError:
        return {}


def _entry(
    name: str, network: str, origin: str, record: dict[str, Any], note: dict[str, Any]
) -> Entry:
    return Entry(
        name=name,
        library=origin,
        family=family_of(network),
        bn_layers=record["bn_layers"],
        bn_channels=record["bn_channels"],
        parameters=record["parameters"],
        flops=record["flops"],
        input_size=note.get("space", {}).get("size", 0),
        weights={"measured": 100 * record["accuracy"]},
        licence="",
    )
