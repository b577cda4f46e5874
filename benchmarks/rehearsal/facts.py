"""What must hold after a rehearsal, each with what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from benchmarks.image_tree import numbers_shown
from benchmarks.rehearsal.drive import Rehearsal
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path, network_unit
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from prism_nb.execution.verify import verify_run

_LARGEST_REPORT = 20e6  # bytes
_NOT_FORESEEN = {"synthesis": 0, "relabel": 1000}  # bytes per file: a label file's own header


class Fact(NamedTuple):
    """A statement, whether it holds, and what was found."""

    statement: str
    holds: bool
    found: str


def facts(found: Rehearsal) -> list[Fact]:
    """Check everything that a rehearsal has left; a check that cannot be made does not hold."""
    run = Run.open(found.run)
    checked = []
    for check in _CHECKS:
        try:
            checked += list(check(found, run))
        except (PrismError, OSError, KeyError, ValueError) as error:
            statement = check.__name__.replace("_", " ")
            checked.append(Fact(statement, holds=False, found=f"{type(error).__name__}: {error}"))
    return checked


def continued_work(_: Rehearsal, run: Run) -> Iterator[Fact]:
    """Neither the continued nor a further run repeats finished work."""
    for stage in pipeline.STAGES:
        units = {unit.name for unit in pipeline.stage_units(run, stage)}
        made = [event["unit"] for event in run.events.read(stage) if event["event"] == "unit_end"]
        yield Fact(
            f"{stage}: every unit is made once",
            sorted(made) == sorted(units),
            f"{len(units)} units made {len(made)} times",
        )


def verified(_: Rehearsal, run: Run) -> Iterator[Fact]:
    """Every unit is complete; class order and labels are those of the dataset and the images."""
    verification = verify_run(run)
    done = all(intact == units for intact, units in verification.intact.values())
    problems = "; ".join(f"{each.where}: {each.what}" for each in verification.findings)
    statement = "all units, classes and labels are intact"
    yield Fact(statement, done and not problems, problems or "no damage")


def heads(found: Rehearsal, run: Run) -> Iterator[Fact]:
    """Every network's head has the classes in the dataset's order."""
    right = []
    for network in dict.fromkeys(found.architectures.values()):
        unit = network_unit(run.settings, found.network(network))
        mine = safetensors.torch.load_file(run.file(unit.params["weights"]))
        given = safetensors.torch.load_file(found.weights(network))
        (head,) = [k for k, v in given.items() if v.ndim == 2 and len(v) == found.classes]
        rows = given[head].flip(0) if network == found.reversed_head else given[head]
        outputs = run.units.record(unit)["head_rows"] or range(found.classes)
        right.append(torch.equal(mine[head][list(outputs)], rows))
    yield Fact("heads in the order of the classes", all(right), f"{sum(right)} of {len(right)}")


def images(found: Rehearsal, run: Run) -> Iterator[Fact]:
    """Every method has every image, in the folder of its class."""
    members = [(c, image_index) for c in range(found.classes) for image_index in range(found.ipc)]
    for method in run.settings.methods:
        wanted = {image_path(method, *member) for member in members}
        folder = run.path / "synthesis" / method / "images"
        there = {str(path.relative_to(run.path)) for path in folder.glob("*/*")}
        yield Fact(
            f"{method} has {found.classes} x {found.ipc} images and no other file",
            there == wanted,
            f"{len(there)} files, {len(there ^ wanted)} missing or strange",
        )
    paths = [run.file(image_path("random_real", *member)) for member in members]
    pixels = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])
    labels = np.array([c for c, _ in members])
    yield _shown("real images in the folders of their classes", pixels, labels)


def held_out_images(_: Rehearsal, run: Run) -> Iterator[Fact]:
    """The held-out images are in the order of the classes."""
    dataset = open_dataset(run.settings)
    labels = dataset.labels("val")
    pixels = dataset.images("val", range(len(labels))).numpy()
    yield _shown("held-out images show their classes", pixels, labels)


def report(_: Rehearsal, run: Run) -> Iterator[Fact]:
    """The report has a size that a browser opens."""
    size, limit = run.file("figures/report.html").stat().st_size / 1e6, _LARGEST_REPORT / 1e6
    yield Fact(f"report below {limit:.0f} MB", size < limit, f"{size:.1f} MB")


def plan(_: Rehearsal, run: Run) -> Iterator[Fact]:
    """The plan has foreseen at least what images and labels take on the disk."""
    nothing = Run(run.path.with_name("nothing"), run.settings)
    for stage, header in _NOT_FORESEEN.items():
        foreseen = pipeline.plan(nothing, stage).disk_bytes or 0
        made = [path for unit in pipeline.stage_units(run, stage) for path in run.units.files(unit)]
        there = [path for path in map(run.file, made) if path.is_file()]
        taken = sum(path.stat().st_size for path in there)
        yield Fact(
            f"{stage}: no more bytes than foreseen",
            0 < taken <= foreseen + len(made) * header,
            f"{taken / 1e6:.1f} MB of {foreseen / 1e6:.1f} MB",
        )


def _shown(statement: str, pixels: np.ndarray, labels: np.ndarray) -> Fact:
    right = int((numbers_shown(pixels) == labels).sum())
    return Fact(statement, right == len(labels), f"{right} of {len(labels)}")


_CHECKS: tuple[Callable[[Rehearsal, Run], Iterator[Fact]], ...] = (
    continued_work,
    verified,
    heads,
    images,
    held_out_images,
    report,
    plan,
)
