"""Datasets by name.

To add one, write a class or function from `DatasetConfig` to `ImageDataset`, enter it in
`DATASETS`, and its name in `core.settings.DatasetName`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from prism_nb.core.errors import UsageError
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import (
    ClassInfo,
    DatasetConfig,
    ImageDataset,
    ShapeOnlyDataset,
    Split,
)
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.imagenet import imagenet1k, tiny_imagenet
from prism_nb.data.small import Digits, cifar, mnist


class DatasetSizes(NamedTuple):
    """Numbers of classes, training images and held-out images."""

    classes: int
    train: int
    val: int


class DatasetEntry(NamedTuple):
    """A dataset that runs may name."""

    open: Callable[[DatasetConfig], ImageDataset]
    sizes: DatasetSizes | None = None  # published, for planning without images
    in_memory: bool = False  # whether it needs no cache of decoded images


def _digits(config: DatasetConfig) -> ImageDataset:
    if config.data_dir or config.class_list:
        raise UsageError("dataset digits comes with the kit; leave out data_dir and class_list")
    return Digits(config.image_size)


DATASETS = {
    "cifar10": DatasetEntry(cifar, DatasetSizes(10, 50_000, 10_000), in_memory=True),
    "cifar100": DatasetEntry(cifar, DatasetSizes(100, 50_000, 10_000), in_memory=True),
    "digits": DatasetEntry(_digits, in_memory=True),
    "fashion_mnist": DatasetEntry(mnist, DatasetSizes(10, 60_000, 10_000), in_memory=True),
    "folder": DatasetEntry(ImageFolder),
    "imagenet1k": DatasetEntry(imagenet1k, DatasetSizes(1000, 1_281_167, 50_000)),
    "mnist": DatasetEntry(mnist, DatasetSizes(10, 60_000, 10_000), in_memory=True),
    "tiny_imagenet": DatasetEntry(tiny_imagenet, DatasetSizes(200, 100_000, 10_000)),
}


def open_dataset(settings: Settings) -> ImageDataset:
    """Open the dataset of a run; it stays open for the rest of the process."""
    dataset = _open(DatasetConfig.of(settings))
    if settings.dataset_hash not in {None, dataset.content_hash}:
        raise UsageError(
            f"the images or classes of dataset {settings.dataset} are not the run's: their hash is "
            f"{dataset.content_hash}, but dataset_hash is {settings.dataset_hash}. Restore "
            "data_dir and class_list, or choose another run name"
        )
    if settings.eval_split == "tuning" and not dataset.has_images:
        raise UsageError("eval_split tuning splits the real images; set data_dir, or leave it out")
    return _holdout(dataset) if settings.eval_split == "tuning" else dataset


def with_dataset_hash(settings: Settings) -> Settings:
    """Return settings that name their images by hash, so that results of others never mix.

    Raises:
        NotImplementedError: The dataset is read from data_dir, but has no `content_hash`.
    """
    if settings.dataset_hash is not None or settings.dataset == "digits":
        return settings
    content_hash = open_dataset(settings).content_hash
    if content_hash is None:
        raise NotImplementedError(f"dataset {settings.dataset} sets no content_hash")
    return settings.model_copy(update={"dataset_hash": content_hash})


@lru_cache(maxsize=2)
def _open(config: DatasetConfig) -> ImageDataset:
    return DATASETS[config.name].open(config)


@lru_cache(maxsize=2)
def _holdout(dataset: ImageDataset) -> ImageDataset:
    return ValidationHoldout(dataset)


_HOLDOUT_FRACTION = 0.25


class ValidationHoldout(ImageDataset):
    """The training images of a dataset, split in two; its held-out images are never opened.

    A fixed quarter of each class is held out. Channel means and deviations are those of all
    training images, so that the pixel space is the same in a search and after it.

    Raises:
        UsageError: A class has too few training images to be split.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self.name = f"{dataset.name} (tuning)"
        self.classes, self.image_size = dataset.classes, dataset.image_size
        self.mean, self.std = dataset.mean, dataset.std
        self.content_hash = dataset.content_hash
        self._dataset = dataset
        labels = dataset.labels("train")
        counts = np.bincount(labels, minlength=len(self.classes))
        if counts.min() * _HOLDOUT_FRACTION < 1:
            raise UsageError(
                f"eval_split tuning holds out a quarter, but class "
                f"{self.classes[counts.argmin()].folder!r} of {dataset.name} has {counts.min()} "
                "images; leave it out with class_list, or use eval_split test"
            )
        from sklearn.model_selection import train_test_split  # takes a second to import

        train, val = train_test_split(
            np.arange(len(labels)), test_size=_HOLDOUT_FRACTION, stratify=labels, random_state=0
        )
        self._indices: dict[Split, np.ndarray] = {"train": np.sort(train), "val": np.sort(val)}

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        labels: np.ndarray = self._dataset.labels("train")[self._indices[split]]
        return labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        rows = self._indices[split][np.asarray(indices, dtype=np.int64)]
        return self._dataset.images("train", rows.tolist())

    def cache(self, split: Split) -> None:
        """See `ImageDataset.cache`; both splits are read from all training images."""
        self._dataset.cache("train")

    def uncached_bytes(self, splits: Collection[Split]) -> int:
        """See `ImageDataset.uncached_bytes`."""
        return self._dataset.uncached_bytes(["train"] if splits else [])


def dataset_sizes(settings: Settings, sizes: DatasetSizes | None = None) -> ImageDataset:
    """Return a run's dataset for planning: of given sizes, of published size, or itself."""
    name = settings.dataset
    if sizes is None and not settings.data_dir and (settings.students or not settings.data_free):
        if name == "folder":
            raise UsageError(
                "the size of dataset folder is not known; set data_dir, or give classes, training "
                "and held-out images, e.g. --size 100 50000 10000"
            )
        sizes = _selected_sizes(settings)
    if sizes is None:
        return open_dataset(settings)
    classes = tuple(ClassInfo(i, f"{i:05d}", f"{i}") for i in range(sizes.classes))
    dataset = ShapeOnlyDataset(name, classes, settings.image_size, sizes.train, sizes.val)
    return ValidationHoldout(dataset) if settings.eval_split == "tuning" else dataset


def _selected_sizes(settings: Settings) -> DatasetSizes | None:
    """Return the published size of a dataset, in proportion to the classes selected."""
    sizes = DATASETS[settings.dataset].sizes
    if sizes is None or not settings.class_list:
        return sizes
    fraction = min(1.0, len(settings.class_list) / sizes.classes)
    return DatasetSizes(*(round(fraction * count) for count in sizes))
