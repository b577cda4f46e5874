"""What is left of a stage takes: time by what is known of its units, and room on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prism_nb.artifacts.sizes import image_bytes, label_bytes, set_bytes
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.run import Run, UnitState
from prism_nb.settings import REFERENCE, Settings
from prism_nb.units import Unit, has_weights

_AT_SETS = {"diversity", "labels", "evaluation"}  # stages that look at whole sets of images
_LOOKING = {"teachers", *_AT_SETS}  # and those that look at real images


def seconds_left(
    run: Run, states: Sequence[UnitState], costs: Sequence[float], *, known: bool
) -> float | None:
    """Return the missing units' costs, in the seconds that the units which are done have taken.

    Args:
        run: The run.
        states: Every unit's state.
        costs: What each unit costs, in any measure.
        known: Whether that measure is seconds on this device.

    Returns:
        None if the measure is not seconds and nothing is done. If it is, each method is scaled by
        its own units alone, since what is not foreseen of one says nothing of another.
    """
    taken: dict[str, float] = {}
    foreseen: dict[str, float] = {}
    left: dict[str, float] = {}
    for state, cost in zip(states, costs, strict=True):
        method = state.unit.key.get("method", "") if known else ""
        if state.state == "done":
            seconds = run.record(state.unit).get("seconds", 0.0)
            taken[method] = taken.get(method, 0.0) + seconds
            foreseen[method] = foreseen.get(method, 0.0) + cost
        else:
            left[method] = left.get(method, 0.0) + cost
    if not known and not any(foreseen.values()):
        return None
    return sum(
        cost * taken[method] / foreseen[method] if foreseen.get(method) else cost
        for method, cost in left.items()
    )


def disk_bytes(settings: Settings, stage: str, share: float, classes: int) -> int | None:
    """Estimate what a share of a stage's units writes, where that can be counted."""
    if stage not in {"synthesis", "labels"} or (stage == "labels" and settings.labels != "stored"):
        return None
    images = classes * settings.ipc * len(settings.methods)
    if stage == "synthesis":
        return round(share * image_bytes(settings, images))
    return round(share * label_bytes(settings, images, classes))


def cache_bytes(run: Run, units: Iterable[Unit]) -> int:
    """Return the most bytes that units to be done will add to the cache of decoded images.

    Held-out images are judged on; training images are gone over by networks that are trained
    from scratch, and by students of all real images; large sets of images by all who look at
    them.
    """
    todo = list(units)
    if not any(unit.stage in _LOOKING for unit in todo):
        return 0
    dataset: ImageDataset = open_dataset(run.settings)
    judged = any(unit.stage in {"teachers", "evaluation"} for unit in todo)
    sets = {unit.key["method"] for unit in todo if unit.stage in _AT_SETS and not _of_all(unit)}
    return (
        (dataset.bytes_to_keep("val") if judged else 0)
        + (dataset.bytes_to_keep("train") if any(map(_goes_over_all, todo)) else 0)
        + len(sets) * set_bytes(run.settings, len(dataset.classes))
    )


def _of_all(unit: Unit) -> bool:
    """Return whether a unit is of students that see all real images."""
    return unit.stage == "evaluation" and bool(unit.key["method"] == REFERENCE)


def _goes_over_all(unit: Unit) -> bool:
    if unit.stage == "teachers":
        return "patch" not in unit.key and not has_weights(unit.key["network"])
    return _of_all(unit)
