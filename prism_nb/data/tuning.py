"""A dataset to choose settings on: part of the training images play the held-out ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor

from prism_nb.data.base import ImageDataset, Split
from prism_nb.data.decoded import pick
from prism_nb.errors import UsageError

_HELD_OUT = 0.25


class TuningSplit(ImageDataset):
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
        self.content, self.damaged = dataset.content, dataset.damaged
        self.chosen = dataset.chosen
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
            return pick(self._kept, indices)
        places = self._places[split][np.asarray(indices, dtype=np.int64)]
        return self._dataset.images("train", places.tolist())

    def keep(self, split: Split) -> None:
        """See `ImageDataset.keep`."""
        if split == "train":
            self._dataset.keep("train")
        elif self._dataset.bytes_to_keep("train"):  # else the whole split is kept or in memory
            self._kept = self._dataset.kept_part("train", self._places["val"], "tuning images")

    def bytes_to_keep(self, split: Split) -> int:
        """See `ImageDataset.bytes_to_keep`."""
        whole = self._dataset.bytes_to_keep("train")
        return whole if split == "train" else round(whole * _HELD_OUT)


def _require_enough(labels: np.ndarray, dataset: ImageDataset) -> None:
    counts = np.bincount(labels, minlength=len(dataset.classes))
    few = int(counts.argmin())
    if counts[few] * _HELD_OUT < 1:
        raise UsageError(
            f"score_on tuning holds a quarter of the training images out, but class "
            f"{dataset.classes[few].folder!r} of {dataset.name} has {counts[few]}; leave it out "
            "with class_list, or use score_on test"
        )
