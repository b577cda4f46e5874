"""What a run takes, counted from its settings alone: operations, files and bytes.

Nothing is timed, so that the numbers are the same on every machine; neither images nor weights are
looked at, so that they need not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from prism_nb.artifacts.sizes import image_bytes, label_bytes, set_bytes
from prism_nb.data import ImageDataset
from prism_nb.diversity import counts as diversity
from prism_nb.evaluation import counts as evaluation
from prism_nb.labels import counts as labels
from prism_nb.pipeline import STAGES
from prism_nb.plans.synthesis import batch_of
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.synthesis import counts as synthesis
from prism_nb.teachers import counts as teachers
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.units import Unit

CACHE = "cache"  # names the images that are decoded once, beside the stages

_FLOP: dict[str, Callable[[Settings, Arithmetic, Sequence[Unit]], list[float]]] = {
    "teachers": teachers.unit_flop,
    "synthesis": synthesis.unit_flop,
    "diversity": diversity.unit_flop,
    "labels": labels.unit_flop,
    "evaluation": evaluation.unit_flop,
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
    """

    stage: str
    method: str
    units: int
    flop: float
    files: int
    bytes: float


def count_run(run: Run, arithmetic: Arithmetic) -> list[Count]:
    """Count each method of each stage of a run, whatever is done of it, and the image cache."""
    dataset, found = arithmetic.dataset, list[Count]()
    for name, stage in STAGES.items():
        by_method: dict[str, list[Unit]] = {}
        for unit in stage.units(run, len(dataset.classes)):
            by_method.setdefault(unit.key.get("method", ""), []).append(unit)
        found += [
            _count(run.settings, arithmetic, name, method, units)
            for method, units in by_method.items()
        ]
    return [*found, _cache(run.settings, dataset)]


def _cache(settings: Settings, dataset: ImageDataset) -> Count:
    """Count the held-out images, and large sets with the real one that they are compared with."""
    held_out = 3 * dataset.image_size**2 * len(dataset.labels("val"))
    each = set_bytes(settings, len(dataset.classes))
    sets = 1 + len(settings.methods) if each else 0
    return Count(CACHE, "", 1, 0.0, 2 + sets, held_out + sets * each)


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
    )
    rows = []
    for count in [*counts, total]:
        row = {
            "stage": count.stage,
            "method": count.method,
            "units": f"{count.units:,}",
            "files": f"{count.files:,}",
            "GB": f"{count.bytes / 1e9:,.2f}",
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
        bytes=sum(_bytes(settings, arithmetic, unit) for unit in units),
    )


def _files(settings: Settings, unit: Unit) -> int:
    """Return how many files a unit leaves beside its marker."""
    if unit.stage == "synthesis":
        return len(batch_of(unit).members())
    stored = settings.label_epochs if settings.labels == "stored" else 0
    return {"teachers": 1, "labels": stored, "evaluation": 3}.get(unit.stage, 0)


def _bytes(settings: Settings, arithmetic: Arithmetic, unit: Unit) -> float:
    """Return what a unit's images, labels, weights or statistics take."""
    classes, key = len(arithmetic.dataset.classes), unit.key
    if unit.stage == "synthesis":
        return image_bytes(settings, len(batch_of(unit).members()))
    if unit.stage == "labels":
        return label_bytes(settings, classes * settings.ipc, classes)
    if unit.stage == "teachers" and "patch" in key:
        return arithmetic.statistics_bytes(key["network"], key["patch"])
    if unit.stage == "teachers":
        return arithmetic.weight_bytes(key["network"])
    return arithmetic.weight_bytes(key["student"]) if unit.stage == "evaluation" else 0.0
