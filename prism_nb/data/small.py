"""Small datasets that are held in memory: digits, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.data.dataset import (
    SPLITS,
    ClassInfo,
    DatasetConfig,
    ImageDataset,
    Split,
    channel_statistics,
    choose_classes,
)
from prism_nb.data.image_io import resize_center_crop

_DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_VAL_FRACTION = 0.3


class Digits(ImageDataset):
    """Scikit-learn's ten digits, enlarged and grey as RGB; 1,257 training, 540 held-out images.

    The split is stratified by class and fixed. It is not by writer: both sides may hold scans of
    one writer, so that accuracies are a little higher than on new handwriting.

    Args:
        image_size: Side to which the 8x8 scans are enlarged (bilinear), in pixels.
    """

    name = "digits"
    content_hash = None  # they come with the kit

    def __init__(self, image_size: int = 32) -> None:
        self.image_size = image_size
        self.classes = tuple(ClassInfo(i, str(i), name) for i, name in enumerate(_DIGIT_NAMES))
        scans, targets = load_digits(return_X_y=True)
        train, val = train_test_split(
            np.arange(len(targets)), test_size=_VAL_FRACTION, stratify=targets, random_state=0
        )
        pixels = _enlarge(scans, image_size)
        indices = {"train": np.sort(train), "val": np.sort(val)}
        self._pixels = {split: pixels[torch.from_numpy(i)] for split, i in indices.items()}
        self._labels = {split: targets[i].astype(np.int64) for split, i in indices.items()}
        self.mean, self.std = channel_statistics([self._pixels["train"]])

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


_CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's names
_CIFAR_SIZE = 32


class Cifar(ImageDataset):
    """CIFAR-10 or CIFAR-100 from torchvision; 50,000 training and 10,000 held-out images.

    The archive holds pickles. torchvision opens none whose MD5 is not the published one.

    Args:
        config: `data_dir` holds torchvision's `cifar-10-batches-py` or `cifar-100-python`. Sizes
            other than 32 px are resized (bicubic, antialiased).
    """

    def __init__(self, config: DatasetConfig) -> None:
        self.name, self.image_size = config.name, config.image_size
        if config.download and config.data_dir is not None:
            config.data_dir.mkdir(parents=True, exist_ok=True)
        parts = {split: _open_cifar(config, split) for split in SPLITS}
        names = parts["train"].classes
        chosen = choose_classes(names, config.class_list, where=config.folder())
        self.classes = tuple(ClassInfo(i, name, name) for i, name in enumerate(chosen))
        label_of = np.array([chosen.index(name) if name in chosen else -1 for name in names])
        self._labels, self._pixels = dict[Split, np.ndarray](), dict[Split, np.ndarray]()
        for split, part in parts.items():
            labels = label_of[np.asarray(part.targets)].astype(np.int64)
            self._labels[split] = labels[labels >= 0]
            self._pixels[split] = part.data[labels >= 0]
        train = torch.from_numpy(self._pixels["train"]).permute(0, 3, 1, 2)
        self.mean, self.std = channel_statistics([train])
        self.content_hash = self._hash()

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._labels[split]

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        pixels = self._pixels[split][np.asarray(indices, dtype=np.int64)]
        if self.image_size != _CIFAR_SIZE:
            resized = [
                resize_center_crop(Image.fromarray(image), self.image_size, 1.0) for image in pixels
            ]
            pixels = np.array(resized).reshape(-1, self.image_size, self.image_size, 3)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _hash(self) -> str:
        digest = hashlib.sha256(repr([info.folder for info in self.classes]).encode())
        for split in SPLITS:
            digest.update(self._labels[split].tobytes())
            digest.update(self._pixels[split].tobytes())
        return digest.hexdigest()[:16]


def _open_cifar(config: DatasetConfig, split: Split) -> Any:
    """Return torchvision's dataset: `data`, uint8 [N, 32, 32, 3], `targets` and `classes`."""
    from torchvision import datasets

    root, name = config.folder(), _CIFAR[config.name]
    remedy = (
        'set download to true, or run, where there is a network, `python -c "from '
        f"torchvision.datasets import {name}; {name}('DIR', download=True)\"` and set data_dir to "
        "that DIR"
    )
    try:
        opener = getattr(datasets, name)
        return opener(str(root), train=split == "train", download=config.download)
    except OSError as error:
        raise PrismError(f"{name} could not be fetched into {root}: {error}; {remedy}") from None
    except RuntimeError as error:
        raise UsageError(f"{name} is not in {root}, or damaged ({error}); {remedy}") from None
