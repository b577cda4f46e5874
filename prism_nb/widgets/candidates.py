"""The networks that a pool can be picked from: with weights of one's own, then the catalogue's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prism_nb import files
from prism_nb.catalogue import family_of, read_catalogue
from prism_nb.errors import PrismError
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.teachers.checkpoints import read_note
from prism_nb.teachers.networks import architecture_of
from prism_nb.widgets.candidate import Candidate

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
        marker = files.read_record(path)
        record, made = marker.get("record"), marker.get("files")
        if not isinstance(record, dict) or not record.keys() >= _FACTS or not record["bn_layers"]:
            continue
        name, file = str(marker.get("unit")), folder / next(iter(made or {"": ""}))
        note = _note(file)
        if folder == run.path:
            yield _candidate(run, name, name, HERE, record, note)
        elif note.get("classes") == [info["folder"] for info in run.read_classes() or []]:
            given = f"{architecture_of(name)}@{file}"
            yield _candidate(run, given, name, f"run {folder.name}", record, note)


def _note(file: Path) -> dict[str, Any]:
    """Return what a run noted in a weights file; nothing where it cannot be read."""
    try:
        return read_note(file)
    except PrismError:
        return {}


def _candidate(
    run: Run, name: str, network: str, origin: str, record: dict[str, Any], note: dict[str, Any]
) -> Candidate:
    return Candidate(
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
        measured_on=_data_of(run.settings),
    )


def _data_of(settings: Settings) -> str:
    """Return what the dataset is called that a run, and neighbours of its classes, work with."""
    own_folder = settings.dataset == "folder" and settings.data_dir
    return Path(settings.data_dir or "").name if own_folder else settings.dataset
