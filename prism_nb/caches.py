"""What the images of a dataset still take in the cache, decoded once for many passes."""

from __future__ import annotations

from collections.abc import Iterable

from prism_nb.data import ImageDataset, open_dataset
from prism_nb.run import Run
from prism_nb.settings import REFERENCE
from prism_nb.units import Unit, has_weights


def cache_bytes(run: Run, units: Iterable[Unit]) -> int:
    """Return the bytes that units to be done will add to the cache of decoded images.

    Held-out images are judged on; training images are gone over by networks that are trained
    from scratch, and by students of all real images.
    """
    wanted = [unit for unit in units if unit.stage in {"teachers", "evaluation"}]
    if not wanted:
        return 0
    dataset: ImageDataset = open_dataset(run.settings)
    many = any(_goes_over_all(unit) for unit in wanted)
    return dataset.bytes_to_keep("val") + (dataset.bytes_to_keep("train") if many else 0)


def _goes_over_all(unit: Unit) -> bool:
    if unit.stage == "evaluation":
        return bool(unit.key["method"] == REFERENCE)
    return "patch" not in unit.key and not has_weights(unit.key["network"])
