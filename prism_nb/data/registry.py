"""Datasets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from prism_nb.data.base import ImageDataset
from prism_nb.data.cifar import Cifar
from prism_nb.data.digits import Digits
from prism_nb.data.folder import ImageFolder
from prism_nb.data.imagenet import imagenet1k
from prism_nb.data.source import Source
from prism_nb.data.tiny_imagenet import tiny_imagenet
from prism_nb.data.tuning import TuningSplit
from prism_nb.errors import UsageError, suggest
from prism_nb.settings import Settings


def _digits(source: Source) -> ImageDataset:
    if source.data_dir or source.class_list:
        raise UsageError(
            "dataset digits is embedded, so data_dir and class_list say nothing to it; leave them "
            "out, or ask for dataset folder"
        )
    return Digits(source.image_size)


_DATASETS: dict[str, Callable[[Source], ImageDataset]] = {
    "cifar10": Cifar,
    "cifar100": Cifar,
    "digits": _digits,
    "folder": ImageFolder,
    "imagenet1k": imagenet1k,
    "tiny_imagenet": tiny_imagenet,
}


def dataset_names() -> list[str]:
    """Return the names that `open_dataset` knows."""
    return sorted(_DATASETS)


def open_dataset(settings: Settings) -> ImageDataset:
    """Open the dataset of a run; it is kept for the rest of the process.

    Raises:
        UsageError: Unknown dataset, one that is not as it must be, or not the one that
            `data_content` names.
    """
    if settings.dataset not in _DATASETS:
        raise UsageError(
            f"unknown dataset {settings.dataset!r}; {suggest(settings.dataset, _DATASETS)}"
        )
    whole = _open(Source.of(settings))
    if not whole.fits(settings.data_content):
        raise UsageError(
            f"the images of dataset {settings.dataset} in {settings.data_dir} are not those asked "
            f"for: their content is {whole.content}, data_content says {settings.data_content}. "
            "Restore the files, class_list and skip_damaged that the run began with (where a "
            "damaged file was restored since, the folder .datasets beside the run must be there "
            "too), or choose another run name"
        )
    return _tuning(whole) if settings.score_on == "tuning" else whole


def with_content(settings: Settings) -> Settings:
    """Return settings that say which images they mean, so that results are bound to them.

    Raises:
        UsageError: As `open_dataset`.
    """
    if settings.data_content is not None or settings.data_dir is None:
        return settings
    return settings.model_copy(update={"data_content": open_dataset(settings).content})


@lru_cache(maxsize=2)
def _open(source: Source) -> ImageDataset:
    return _DATASETS[source.name](source)


@lru_cache(maxsize=2)
def _tuning(dataset: ImageDataset) -> ImageDataset:
    return TuningSplit(dataset)
