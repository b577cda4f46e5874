"""CIFAR-10 and CIFAR-100, as torchvision reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.data.dataset import Channels, ClassInfo, DatasetConfig, ImageDataset, Split
from prism_nb.data.image_io import resize_center_crop
from prism_nb.data.index import choose_classes

_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_NATIVE = 32


class Cifar(ImageDataset):
    """50,000 images to learn from and 10,000 held out, all in memory.

    The archive holds pickles. torchvision opens none whose MD5 is not the published one.

    Args:
        source: Where they are; `data_dir` holds torchvision's `cifar-10-batches-py` or
            `cifar-100-python`. Sizes other than 32 px are resized (bicubic, antialiased).
    """

    def __init__(self, source: DatasetConfig) -> None:
        self.name, self.image_size = source.name, source.image_size
        parts = {"train": _open(source, train=True), "val": _open(source, train=False)}
        names = parts["train"].classes
        chosen = choose_classes(names, source.class_list, where=_root(source))
        self.classes = tuple(ClassInfo(i, name, name) for i, name in enumerate(chosen))
        order = np.array([chosen.index(name) if name in chosen else -1 for name in names])
        self._labels, self._pixels = {}, {}
        for split, part in parts.items():
            labels = order[np.asarray(part.targets)].astype(np.int64)
            self._labels[split] = labels[labels >= 0]
            self._pixels[split] = part.data[labels >= 0]
        self.mean, self.std = _channels(self._pixels["train"])
        self.content_hash, self.has_class_list = self._digest(), bool(source.class_list)

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._labels[split]

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        pixels = self._pixels[split][np.asarray(indices, dtype=np.int64)]
        if self.image_size != _NATIVE:
            resized = [
                resize_center_crop(Image.fromarray(image), self.image_size, 1.0) for image in pixels
            ]
            pixels = np.array(resized).reshape(-1, self.image_size, self.image_size, 3)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _digest(self) -> str:
        digest = hashlib.sha256(repr([info.folder for info in self.classes]).encode())
        for split in ("train", "val"):
            digest.update(self._labels[split].tobytes())
            digest.update(self._pixels[split].tobytes())
        return digest.hexdigest()[:16]


def _root(source: DatasetConfig) -> Path:
    if source.download and source.data_dir is not None:
        source.data_dir.mkdir(parents=True, exist_ok=True)
    return source.folder()


def _open(source: DatasetConfig, *, train: bool) -> Any:
    """Return torchvision's dataset: `data`, uint8 [N, 32, 32, 3], `targets` and `classes`."""
    from torchvision import datasets

    kind, root = _NAMES[source.name], _root(source)
    try:
        return getattr(datasets, kind)(str(root), train=train, download=source.download)
    except OSError as error:
        raise PrismError(
            f"{kind} could not be fetched into {root}: {error}; {_by_hand(kind)}"
        ) from None
    except RuntimeError as error:
        raise UsageError(
            f"{kind} is not in {root}, or damaged ({error}); {_by_hand(kind)}"
        ) from None


def _by_hand(kind: str) -> str:
    return (
        'set download to true, or run, where there is a network, `python -c "from '
        f"torchvision.datasets import {kind}; {kind}('DIR', download=True)\"` and set data_dir to "
        "that DIR"
    )


def _channels(pixels: np.ndarray) -> tuple[Channels, Channels]:
    """Return mean and deviation of each channel, from counts of its 256 levels."""
    levels = np.arange(256) / 255
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
    means = [float(np.average(levels, weights=count)) for count in counts]
    stds = [
        float(np.average((levels - mean) ** 2, weights=count)) ** 0.5
        for mean, count in zip(means, counts, strict=True)
    ]
    red, green, blue = (round(mean, 4) for mean in means)
    return (red, green, blue), (round(stds[0], 4), round(stds[1], 4), round(stds[2], 4))


_DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
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
        self.classes = tuple(ClassInfo(i, str(i), name) for i, name in enumerate(_DIGIT_NAMES))
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
