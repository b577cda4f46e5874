"""Datasets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from prism_nb.config import Settings
from prism_nb.data.base import ImageDataset
from prism_nb.data.digits import Digits
from prism_nb.data.tuning import TuningSplit
from prism_nb.errors import UsageError, suggest

_DATASETS: dict[str, Callable[[int], ImageDataset]] = {"digits": Digits}


def dataset_names() -> list[str]:
    """Return the names that `open_dataset` knows."""
    return sorted(_DATASETS)


def open_dataset(settings: Settings) -> ImageDataset:
    """Open the dataset of a run; it is kept for the rest of the process.

    Raises:
        UsageError: Unknown dataset.
    """
    if settings.dataset not in _DATASETS:
        raise UsageError(
            f"unknown dataset {settings.dataset!r}; {suggest(settings.dataset, _DATASETS)}"
        )
    whole = _open(settings.dataset, settings.image_size)
    return _tuning(whole) if settings.score_on == "tuning" else whole


@lru_cache(maxsize=2)
def _open(name: str, image_size: int) -> ImageDataset:
    return _DATASETS[name](image_size)


@lru_cache(maxsize=2)
def _tuning(dataset: ImageDataset) -> ImageDataset:
    return TuningSplit(dataset)
