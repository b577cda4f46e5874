"""The embedded dataset: scikit-learn's handwritten digits, 1,797 real 8x8 scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from prism_nb.data.base import ClassInfo, ImageDataset, Split

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_HELD_OUT = 0.3


class Digits(ImageDataset):
    """Ten digits, enlarged and grey as RGB; 1,257 to learn from and 540 held out.

    The split is stratified by class and fixed for all time. It is not by writer: the scans of
    one writer may stand on both sides, so that accuracies are a little kinder than on new hands.

    Args:
        image_size: Side to which the 8x8 scans are enlarged (bilinear), in pixels.
    """

    def __init__(self, image_size: int = 32) -> None:
        self.name = "digits"
        self.image_size = image_size
        self.classes = tuple(ClassInfo(i, str(i), name) for i, name in enumerate(_NAMES))
        scans, targets = load_digits(return_X_y=True)
        train, val = train_test_split(
            np.arange(len(targets)), test_size=_HELD_OUT, stratify=targets, random_state=0
        )
        pixels = _enlarge(scans, image_size)
        places = {"train": np.sort(train), "val": np.sort(val)}
        self._pixels = {split: pixels[torch.from_numpy(at)] for split, at in places.items()}
        self._labels = {split: targets[at].astype(np.int64) for split, at in places.items()}
        train_pixels = self._pixels["train"].to(torch.float64) / 255
        self.mean = (round(train_pixels.mean().item(), 4),) * 3
        self.std = (round(train_pixels.std().item(), 4),) * 3

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._labels[split]

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        return self._pixels[split][torch.as_tensor(indices, dtype=torch.int64)]


def _enlarge(scans: np.ndarray, size: int) -> Tensor:
    grey = torch.from_numpy(scans).view(-1, 1, 8, 8) / 16
    large = functional.interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    return (large * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
