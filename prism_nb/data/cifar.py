"""CIFAR-10 and CIFAR-100, as torchvision reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prism_nb.data.base import Channels, ClassInfo, ImageDataset, Split
from prism_nb.data.decode import square
from prism_nb.data.layout import choose_classes
from prism_nb.data.source import Source
from prism_nb.errors import PrismError, UsageError

_NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
_NATIVE = 32


class Cifar(ImageDataset):
    """50,000 images to learn from and 10,000 held out, all in memory.

    The archive holds pickles. torchvision opens none whose MD5 is not the published one.

    Args:
        source: Where they are; `data_dir` holds torchvision's `cifar-10-batches-py` or
            `cifar-100-python`. Sizes other than 32 px are resized (bicubic, antialiased).
    """

    def __init__(self, source: Source) -> None:
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
        self.content, self.chosen = self._digest(), bool(source.class_list)

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._labels[split]

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        pixels = self._pixels[split][np.asarray(indices, dtype=np.int64)]
        if self.image_size != _NATIVE:
            resized = [square(Image.fromarray(image), self.image_size, 1.0) for image in pixels]
            pixels = np.array(resized).reshape(-1, self.image_size, self.image_size, 3)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _digest(self) -> str:
        digest = hashlib.sha256(repr([info.folder for info in self.classes]).encode())
        for split in ("train", "val"):
            digest.update(self._labels[split].tobytes())
            digest.update(self._pixels[split].tobytes())
        return digest.hexdigest()[:16]


def _root(source: Source) -> Path:
    if source.download and source.data_dir is not None:
        source.data_dir.mkdir(parents=True, exist_ok=True)
    return source.folder()


def _open(source: Source, *, train: bool) -> Any:
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
