"""What is left of a stage takes: time by what is known of its units, and room on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, pairwise

from prism_nb.artifacts.images import is_decoded
from prism_nb.artifacts.sizes import image_bytes, label_bytes, set_bytes
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.data.described import DescribedDataset, Numbers
from prism_nb.markers import UnitState
from prism_nb.plans.synthesis import batch_of
from prism_nb.run import Run
from prism_nb.settings import REFERENCE, Settings
from prism_nb.teachers.arithmetic import Arithmetic
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


def disk_bytes(settings: Settings, units: Sequence[Unit], classes: int) -> int:
    """Return the most bytes that units write: images, labels and weights; the rest is small."""
    known = _counted(classes, settings.image_size)
    return round(sum(unit_bytes(settings, known, unit) for unit in units))


def unit_bytes(settings: Settings, arithmetic: Arithmetic, unit: Unit) -> float:
    """Return the most bytes that a unit's images, labels, weights or statistics take."""
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


@lru_cache(maxsize=8)
def _counted(classes: int, image_size: int) -> Arithmetic:
    """Return what knows the size of networks; a plan asks for it again and again."""
    return Arithmetic(DescribedDataset("", Numbers(classes, classes, classes), image_size))


def cache_shares(run: Run, stages: Sequence[Sequence[Unit]]) -> list[int]:
    """Return what each of some stages adds to the cache that none before it has added.

    Args:
        run: The run.
        stages: Units to be done, stage by stage.
    """
    totals = [cache_bytes(run, chain(*stages[:count])) for count in range(len(stages) + 1)]
    return [after - before for before, after in pairwise(totals)]


def cache_bytes(run: Run, units: Iterable[Unit]) -> int:
    """Return the most bytes that units to be done will add to the cache of decoded images.

    Held-out images are judged on; training images are gone over by networks that are trained
    from scratch, and by students of all real images; large sets of images by all who look at
    them. What is there already adds nothing.
    """
    todo = list(units)
    if not any(unit.stage in _LOOKING for unit in todo):
        return 0
    dataset: ImageDataset = open_dataset(run.settings)
    judged = any(unit.stage in {"teachers", "evaluation"} for unit in todo)
    each = set_bytes(run.settings, len(dataset.classes))
    sets = {unit.key["method"] for unit in todo if unit.stage in _AT_SETS and not _of_all(unit)}
    fresh = [name for name in sets if each and not is_decoded(run, name, dataset)]
    return (
        (dataset.bytes_to_keep("val") if judged else 0)
        + (dataset.bytes_to_keep("train") if any(map(goes_over_all, todo)) else 0)
        + len(fresh) * each
    )


def _of_all(unit: Unit) -> bool:
    """Return whether a unit is of students that see all real images."""
    return unit.stage == "evaluation" and bool(unit.key["method"] == REFERENCE)


def goes_over_all(unit: Unit) -> bool:
    """Return whether a unit is a training on all real training images."""
    if unit.stage == "teachers":
        return "patch" not in unit.key and not has_weights(unit.key["network"])
    return _of_all(unit)
