"""A dataset to choose settings on: part of the training images play the held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor

from prism_nb.data.base import ImageDataset, Split
from prism_nb.data.decoded import pick

_HELD_OUT = 0.25


class TuningSplit(ImageDataset):
    """The training images of a dataset, cut in two; its own held-out images are never opened.

    A quarter of each class is held out, the same for all time. Channel means and deviations are
    those of the whole training split, so that pixels mean the same in a search and after it.

    Args:
        dataset: The dataset whose test images must stay unseen.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self.name = f"{dataset.name} (tuning)"
        self.classes, self.image_size = dataset.classes, dataset.image_size
        self.mean, self.std = dataset.mean, dataset.std
        self.content, self.damaged = dataset.content, dataset.damaged
        self._dataset = dataset
        labels = dataset.labels("train")
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
        if split == "val" and self._held_out is not None:
            return pick(self._held_out, indices)
        places = self._places[split][np.asarray(indices, dtype=np.int64)]
        return self._dataset.images("train", places.tolist())

    def keep(self, split: Split) -> None:
        """See `ImageDataset.keep`."""
        if split == "train":
            self._dataset.keep("train")

    def bytes_to_keep(self, split: Split) -> int:
        """See `ImageDataset.bytes_to_keep`."""
        whole = self._dataset.bytes_to_keep("train")
        return whole if split == "train" else round(whole * _HELD_OUT)

    @cached_property
    def _held_out(self) -> np.ndarray | None:
        """The held-out quarter in a file of its own, where the whole split is in none."""
        if not self._dataset.bytes_to_keep("train"):
            return None
        return self._dataset.kept_part("train", self._places["val"], "tuning images")
