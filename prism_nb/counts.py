"""What a run takes, counted from its settings alone: operations, files, bytes and memory.

Nothing is timed, so that the numbers are the same on every machine; neither images nor weights are
looked at, so that they need not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from prism_nb.artifacts.sizes import set_bytes
from prism_nb.data import ImageDataset
from prism_nb.data.base import Split
from prism_nb.diversity import counts as diversity
from prism_nb.evaluation import counts as evaluation
from prism_nb.forecast import goes_over_all, unit_bytes
from prism_nb.labels import counts as labels
from prism_nb.pipeline import STAGES
from prism_nb.plans.synthesis import batch_of
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.synthesis import counts as synthesis
from prism_nb.synthesis import memory as synthesis_memory
from prism_nb.teachers import counts as teachers
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.units import Unit

CACHE = "cache"  # names the images that are decoded once, beside the stages
_IN_MEMORY = {"digits", "cifar10", "cifar100"}  # datasets that are read whole, and never decoded

_FLOP: dict[str, Callable[[Settings, Arithmetic, Sequence[Unit]], list[float]]] = {
    "teachers": teachers.unit_flop,
    "synthesis": synthesis.unit_flop,
    "diversity": diversity.unit_flop,
    "labels": labels.unit_flop,
    "evaluation": evaluation.unit_flop,
}
_MEMORY: dict[str, Callable[[Settings, Arithmetic, Sequence[Unit]], float]] = {
    "teachers": teachers.most_bytes,
    "synthesis": synthesis_memory.most_bytes,
    "evaluation": evaluation.most_bytes,
}


@dataclass(frozen=True)
class Count:
    """What some units take.

    Attributes:
        stage: Their stage.
        method: Their method; empty where they belong to none.
        units: Their number.
        flop: Floating-point operations of networks, a multiply-add being two.
        files: Files that they leave, markers included.
        bytes: What images, labels and weights take of them, at most; the rest is small.
        memory: The most bytes that tensors on a device take at once in a training or optimising
            step of them; 0 where there is none.
    """

    stage: str
    method: str
    units: int
    flop: float
    files: int
    bytes: float
    memory: float = 0.0


def count_run(run: Run, arithmetic: Arithmetic) -> list[Count]:
    """Count each method of each stage of a run, whatever is done of it, and the image cache."""
    dataset, found, everything = arithmetic.dataset, list[Count](), list[Unit]()
    for name, stage in STAGES.items():
        by_method: dict[str, list[Unit]] = {}
        for unit in stage.units(run, len(dataset.classes)):
            by_method.setdefault(unit.key.get("method", ""), []).append(unit)
            everything.append(unit)
        found += [
            _count(run.settings, arithmetic, name, method, units)
            for method, units in by_method.items()
        ]
    return [*found, _cache(run.settings, dataset, everything)]


def _cache(settings: Settings, dataset: ImageDataset, units: Sequence[Unit]) -> Count:
    """Count what is decoded once: real images that lie in files, and large sets of images.

    Held-out images are judged on by all; training images are gone over by networks that are
    trained; sets are those of all methods, and the real one that they are compared with.
    """
    splits: list[Split] = ["val", "train"] if any(map(goes_over_all, units)) else ["val"]
    real = 3.0 * dataset.image_size**2 * sum(len(dataset.labels(split)) for split in splits)
    in_files = settings.dataset not in _IN_MEMORY
    each = set_bytes(settings, len(dataset.classes))
    sets = 1 + len(settings.methods) if each else 0
    files = (1 + len(splits) if in_files else 0) + sets  # the index is one
    return Count(CACHE, "", 1, 0.0, files, (real if in_files else 0.0) + sets * each)


def flop_of(run: Run, arithmetic: Arithmetic, stage: str, units: Sequence[Unit]) -> float:
    """Return the operations of some units of a stage."""
    return sum(_FLOP[stage](run.settings, arithmetic, units))


def count_table(counts: Sequence[Count], *, rate: float | None = None) -> pd.DataFrame:
    """Return counts for people, and their sum; hours at `rate` operations per second, if given."""
    total = Count(
        "in all",
        "",
        sum(c.units for c in counts),
        sum(c.flop for c in counts),
        sum(c.files for c in counts),
        sum(c.bytes for c in counts),
        max(c.memory for c in counts),
    )
    rows = []
    for count in [*counts, total]:
        row = {
            "stage": count.stage,
            "method": count.method,
            "units": f"{count.units:,}",
            "files": f"{count.files:,}",
            "GB": f"{count.bytes / 1e9:,.2f}",
            "GPU GB": f"{count.memory / 1e9:,.1f}" if count.memory else "",
            "PFLOP": f"{count.flop / 1e15:,.2f}",
        }
        hours = {} if rate is None else {"hours": f"{count.flop / rate / 3600:,.1f}"}
        rows.append(row | hours)
    return pd.DataFrame(rows)


def _count(
    settings: Settings, arithmetic: Arithmetic, stage: str, method: str, units: Sequence[Unit]
) -> Count:
    return Count(
        stage=stage,
        method=method,
        units=len(units),
        flop=sum(_FLOP[stage](settings, arithmetic, units)),
        files=sum(1 + _files(settings, unit) for unit in units),  # a marker each
        bytes=sum(unit_bytes(settings, arithmetic, unit) for unit in units),
        memory=_MEMORY[stage](settings, arithmetic, units) if stage in _MEMORY else 0.0,
    )


def _files(settings: Settings, unit: Unit) -> int:
    """Return how many files a unit leaves beside its marker."""
    if unit.stage == "synthesis":
        return len(batch_of(unit).members())
    stored = settings.label_epochs if settings.labels == "stored" else 0
    return {"teachers": 1, "labels": stored, "evaluation": 3}.get(unit.stage, 0)
