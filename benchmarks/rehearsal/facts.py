"""What must hold after a rehearsal, each with what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from benchmarks.rehearsal.drive import Rehearsal
from benchmarks.rehearsal.tree import numbers_shown
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path, label_paths, network_unit
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import LabelStore
from prism_nb.execution import pipeline

_LARGEST_REPORT = 20e6  # bytes
_HEADER = 128  # bytes of an .npy file before its array
_NOT_FORESEEN = {"synthesis": 0, "relabel": 1000}  # bytes per file: a label file's own header


@dataclass(frozen=True)
class Fact:
    """A statement and whether it holds.

    Attributes:
        statement: What must hold.
        holds: Whether it does.
        found: What was found.
    """

    statement: str
    holds: bool
    found: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'FAIL'} {self.statement}: {self.found}"


def facts(found: Rehearsal) -> list[Fact]:
    """Check everything that a rehearsal has left; a check that cannot be made does not hold."""
    checked = []
    for check in _CHECKS:
        try:
            checked += list(check(found))
        except (PrismError, OSError, KeyError, ValueError) as error:
            words = (check.__doc__ or "").partition("\n")[0].rstrip(".")
            checked.append(Fact(words, holds=False, found=f"{type(error).__name__}: {error}"))
    return checked


def calls(found: Rehearsal) -> Iterator[Fact]:
    """Every call ends as it should."""
    for what, call in found.calls.items():
        wanted = -9 if what == "killed" else 0
        yield Fact(f"{what}: exit status {wanted}", call.status == wanted, str(call.status))
    again = found.calls["repeated"].output.count("done before")
    notebooks = len(pipeline.STAGES) + 1
    yield Fact("a further call does nothing", again == notebooks, f"{again} of {notebooks} kept")


def kill(found: Rehearsal) -> Iterator[Fact]:
    """Nothing is redone after the kill but units in flight."""
    run = Run.open(found.run)
    units = pipeline.stage_units(run, "synthesis")
    done = len(units) - found.missing
    yield Fact(
        "killed amid the synthesis", 0 < done < len(units), f"{done} of {len(units)} units done"
    )
    same = sum(run.file(path).stat().st_mtime_ns == at for path, at in found.written.items())
    yield Fact(
        "files of finished units are kept",
        same == len(found.written),
        f"{same} of {len(found.written)}",
    )
    line = re.search(r"^02_synthesis +(\d+) units made", found.calls["resumed"].output, re.M)
    made = int(line[1]) if line else 0
    yield Fact("only missing units are made", made == found.missing, f"{made} of {found.missing}")


def class_order(found: Rehearsal) -> Iterator[Fact]:
    """The classes have the order of their sorted folder names."""
    recorded = Run.open(found.run).read_classes() or []
    folders = [one["folder"] for one in recorded]
    wanted = sorted(path.name for path in (found.tree / "train").iterdir())
    yield Fact("classes in the order of sorted wnids", folders == wanted, f"{len(folders)} classes")


def heads(found: Rehearsal) -> Iterator[Fact]:
    """Every network's head has the classes in the dataset's order."""
    run, right = Run.open(found.run), []
    for network in dict.fromkeys(found.architectures.values()):
        unit = network_unit(run.settings, found.network(network))
        mine = safetensors.torch.load_file(run.file(unit.params["weights"]))
        given = safetensors.torch.load_file(found.weights(network))
        (head,) = [k for k, v in given.items() if v.ndim == 2 and len(v) == found.classes]
        rows = given[head].flip(0) if network == found.reversed_head else given[head]
        right.append(torch.equal(mine[head], rows))
    yield Fact("heads in the order of the classes", all(right), f"{sum(right)} of {len(right)}")


def images(found: Rehearsal) -> Iterator[Fact]:
    """Every method has every image, in the folder of its class."""
    run = Run.open(found.run)
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


def held_out(found: Rehearsal) -> Iterator[Fact]:
    """The cache holds the held-out images once, in the order of the classes."""
    dataset = open_dataset(Run.open(found.run).settings)
    cached = list(found.cache.glob("decoded/*.npy"))
    labels = dataset.labels("val")
    wanted = len(labels) * 3 * dataset.image_size**2
    size = sum(path.stat().st_size for path in cached)
    yield Fact(
        f"one cache of held-out images, {wanted} bytes and a header",
        len(cached) == 1 and 0 < size - wanted <= _HEADER,
        f"{len(cached)} files, {size} bytes",
    )
    pixels = dataset.images("val", range(len(labels))).numpy()
    yield _shown("held-out images show their classes", pixels, labels)


def labels(found: Rehearsal) -> Iterator[Fact]:
    """Every label file is undamaged, of these images and this order of classes."""
    run = Run.open(found.run)
    count, files, finite = found.classes * found.ipc, 0, True
    for method in run.settings.methods:
        store = LabelStore(run, method)
        for epoch in range(len(label_paths(run.settings, method))):
            logits = store.load(epoch, torch.device("cpu"), count=count).logits
            finite &= logits is not None and bool(logits.isfinite().all())
            files += 1
    wanted = len(run.settings.methods)
    yield Fact(
        f"labels of {count} images x {found.classes} classes, all finite numbers",
        finite and files == wanted,
        f"{files} of {wanted} files",
    )


def report(found: Rehearsal) -> Iterator[Fact]:
    """The report is one file of a size that a browser opens, and its text is about the run."""
    text = Run.open(found.run).file("figures/report.html").read_text(encoding="utf-8")
    size = len(text.encode())
    yield Fact(
        f"report below {_LARGEST_REPORT / 1e6:.0f} MB",
        size < _LARGEST_REPORT,
        f"{size / 1e6:.1f} MB",
    )
    for network in dict.fromkeys(found.architectures.values()):
        text = text.replace(found.network(network), "")
    times = text.count(str(found.folder))
    yield Fact("the report has one local path, the setting data_dir", times == 1, f"{times} found")


def plan(found: Rehearsal) -> Iterator[Fact]:
    """The plan has foreseen at least what images and labels take on the disk."""
    run = Run.open(found.run)
    nothing = Run(run.path.with_name("nothing"), run.settings)
    for stage in _NOT_FORESEEN:
        foreseen = pipeline.plan(nothing, stage).disk_bytes or 0
        made = [path for unit in pipeline.stage_units(run, stage) for path in run.units.files(unit)]
        there = [path for path in map(run.file, made) if path.is_file()]
        taken = sum(path.stat().st_size for path in there)
        yield Fact(
            f"{stage}: no more bytes than foreseen",
            0 < taken <= foreseen + len(made) * _NOT_FORESEEN[stage],
            f"{taken / 1e6:.1f} MB of {foreseen / 1e6:.1f} MB",
        )


def _shown(statement: str, pixels: np.ndarray, labels: np.ndarray) -> Fact:
    right = int((numbers_shown(pixels) == labels).sum())
    return Fact(statement, right == len(labels), f"{right} of {len(labels)}")


_CHECKS: tuple[Callable[[Rehearsal], Iterator[Fact]], ...] = (
    calls,
    kill,
    class_order,
    heads,
    images,
    held_out,
    labels,
    report,
    plan,
)
