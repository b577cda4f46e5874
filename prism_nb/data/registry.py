"""Datasets by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ClassInfo, DatasetConfig, ImageDataset, Split
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.image_io import gather
from prism_nb.data.imagenet import imagenet1k, tiny_imagenet
from prism_nb.data.small import Cifar, Digits


def _digits(source: DatasetConfig) -> ImageDataset:
    if source.data_dir or source.class_list:
        raise UsageError(
            "dataset digits is embedded, so data_dir and class_list say nothing to it; leave them "
            "out, or ask for dataset folder"
        )
    return Digits(source.image_size)


_DATASETS: dict[str, Callable[[DatasetConfig], ImageDataset]] = {
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
            `dataset_hash` names.
    """
    if settings.dataset not in _DATASETS:
        raise UsageError(
            f"unknown dataset {settings.dataset!r}; {suggest(settings.dataset, _DATASETS)}"
        )
    whole = _open(DatasetConfig.of(settings))
    if settings.dataset_hash not in {None, whole.content_hash}:
        raise UsageError(
            f"the images of dataset {settings.dataset} in {settings.data_dir} are not those asked "
            f"for: their hash is {whole.content_hash}, but dataset_hash is "
            f"{settings.dataset_hash}. Restore the files, class_list and "
            "skip_corrupt that the run began with, or choose "
            "another run name"
        )
    return _tuning(whole) if settings.eval_split == "tuning" else whole


def with_dataset_hash(settings: Settings) -> Settings:
    """Return settings that say which images they mean, so that results are bound to them.

    Raises:
        UsageError: As `open_dataset`.
    """
    if settings.dataset_hash is not None or settings.data_dir is None:
        return settings
    return settings.model_copy(update={"dataset_hash": open_dataset(settings).content_hash})


@lru_cache(maxsize=2)
def _open(source: DatasetConfig) -> ImageDataset:
    return _DATASETS[source.name](source)


@lru_cache(maxsize=2)
def _tuning(dataset: ImageDataset) -> ImageDataset:
    return ValidationHoldout(dataset)


_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class DatasetSizes:
    """How large a dataset is.

    Attributes:
        classes: Number of classes.
        train: Training images.
        val: Held-out images.
    """

    classes: int
    train: int
    val: int


_PUBLISHED = {
    "cifar10": DatasetSizes(10, 50_000, 10_000),
    "cifar100": DatasetSizes(100, 50_000, 10_000),
    "tiny_imagenet": DatasetSizes(200, 100_000, 10_000),
    "imagenet1k": DatasetSizes(1000, 1_281_167, 50_000),
}


class ShapeOnlyDataset(ImageDataset):
    """Stands in for real images where nothing but their number matters.

    Args:
        name: The dataset's name.
        numbers: How large it is; all classes are taken to have equally many images.
        image_size: Side of its images, in pixels.
    """

    def __init__(self, name: str, numbers: DatasetSizes, image_size: int) -> None:
        self.name, self.image_size, self.mean, self.std = name, image_size, _GREY, _GREY
        self.classes = tuple(ClassInfo(i, f"{i:05d}", f"{i}") for i in range(numbers.classes))
        self._counts: dict[Split, int] = {"train": numbers.train, "val": numbers.val}

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return np.arange(self._counts[split], dtype=np.int64) % len(self.classes)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Refuse: there are none."""
        raise ValueError(f"{self.name} is described by numbers; it has no images to show")


def dataset_sizes(settings: Settings, numbers: DatasetSizes | None = None) -> ImageDataset:
    """Return a run's dataset: itself where it is at hand, else its published numbers.

    Args:
        settings: The run's.
        numbers: Stand in for the dataset, whatever is known of it.

    Raises:
        UsageError: Nothing is known of it, or what is at hand is not as it must be.
    """
    name = settings.dataset
    if numbers is None and (settings.data_dir or name not in _PUBLISHED):
        if name == "folder" and not settings.data_dir:
            raise UsageError(
                "dataset folder has no data_dir, so its size is not known; set data_dir, or say "
                "how large it is, e.g. --size 100,50000,10000 (classes, training and held-out "
                "images)"
            )
        return open_dataset(settings)
    numbers = numbers or _chosen(_PUBLISHED[name], len(settings.class_list))
    whole = ShapeOnlyDataset(name, numbers, settings.image_size)
    return ValidationHoldout(whole) if settings.eval_split == "tuning" else whole


def _chosen(whole: DatasetSizes, classes: int) -> DatasetSizes:
    """Return the numbers of so many of the classes; of all of them where none is named."""
    share = min(classes or whole.classes, whole.classes) / whole.classes
    return DatasetSizes(
        round(share * whole.classes), round(share * whole.train), round(share * whole.val)
    )


_HELD_OUT = 0.25


class ValidationHoldout(ImageDataset):
    """The training images of a dataset, cut in two; its own held-out images are never opened.

    A quarter of each class is held out, the same for all time. Channel means and deviations are
    those of the whole training split, so that pixels mean the same in a search and after it.

    Args:
        dataset: The dataset whose test images must stay unseen.

    Raises:
        UsageError: A class has too few training images to be cut in two.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self.name = f"{dataset.name} (tuning)"
        self.classes, self.image_size = dataset.classes, dataset.image_size
        self.mean, self.std = dataset.mean, dataset.std
        self.content_hash, self.corrupt_files = dataset.content_hash, dataset.corrupt_files
        self.has_class_list = dataset.has_class_list
        self._dataset = dataset
        self._kept: np.ndarray | None = None  # the held-out quarter
        labels = dataset.labels("train")
        _require_enough(labels, dataset)
        train, val = train_test_split(
            np.arange(len(labels)), test_size=_HELD_OUT, stratify=labels, random_state=0
        )
        self._places: dict[Split, np.ndarray] = {"train": np.sort(train), "val": np.sort(val)}

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        labels: np.ndarray = self._dataset.labels("train")[self._places[split]]
        return labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        if split == "val" and self._kept is not None:
            return gather(self._kept, indices)
        places = self._places[split][np.asarray(indices, dtype=np.int64)]
        return self._dataset.images("train", places.tolist())

    def cache(self, split: Split) -> None:
        """See `ImageDataset.cache`."""
        if split == "train":
            self._dataset.cache("train")
        elif self._dataset.uncached_bytes("train"):  # else the whole split is kept or in memory
            self._kept = self._dataset.cache_subset("train", self._places["val"], "tuning images")

    def uncached_bytes(self, split: Split) -> int:
        """See `ImageDataset.uncached_bytes`."""
        whole = self._dataset.uncached_bytes("train")
        return whole if split == "train" else round(whole * _HELD_OUT)


def _require_enough(labels: np.ndarray, dataset: ImageDataset) -> None:
    counts = np.bincount(labels, minlength=len(dataset.classes))
    few = int(counts.argmin())
    if counts[few] * _HELD_OUT < 1:
        raise UsageError(
            f"eval_split tuning holds a quarter of the training images out, but class "
            f"{dataset.classes[few].folder!r} of {dataset.name} has {counts[few]}; leave it out "
            "with class_list, or use eval_split test"
        )
