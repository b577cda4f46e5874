"""A dataset of which only the numbers are known: enough to count what a run of it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from prism_nb.data.base import ClassInfo, ImageDataset, Split
from prism_nb.data.registry import open_dataset
from prism_nb.data.tuning import TuningSplit
from prism_nb.errors import UsageError
from prism_nb.settings import Settings

_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Numbers:
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
    "cifar10": Numbers(10, 50_000, 10_000),
    "cifar100": Numbers(100, 50_000, 10_000),
    "tiny_imagenet": Numbers(200, 100_000, 10_000),
    "imagenet1k": Numbers(1000, 1_281_167, 50_000),
}


class DescribedDataset(ImageDataset):
    """Stands in for real images where nothing but their number matters.

    Args:
        name: The dataset's name.
        numbers: How large it is; all classes are taken to have equally many images.
        image_size: Side of its images, in pixels.
    """

    def __init__(self, name: str, numbers: Numbers, image_size: int) -> None:
        self.name, self.image_size, self.mean, self.std = name, image_size, _GREY, _GREY
        self.classes = tuple(ClassInfo(i, f"{i:05d}", f"{i}") for i in range(numbers.classes))
        self._counts: dict[Split, int] = {"train": numbers.train, "val": numbers.val}

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return np.arange(self._counts[split], dtype=np.int64) % len(self.classes)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Refuse: there are none."""
        raise ValueError(f"{self.name} is described by numbers; it has no images to show")


def describe_dataset(settings: Settings, numbers: Numbers | None = None) -> ImageDataset:
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
    whole = DescribedDataset(name, numbers, settings.image_size)
    return TuningSplit(whole) if settings.score_on == "tuning" else whole


def _chosen(whole: Numbers, classes: int) -> Numbers:
    """Return the numbers of so many of the classes; of all of them where none is named."""
    share = min(classes or whole.classes, whole.classes) / whole.classes
    return Numbers(
        round(share * whole.classes), round(share * whole.train), round(share * whole.val)
    )
