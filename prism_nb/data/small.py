"""Small datasets that are held in memory: digits, CIFAR, MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from prism_nb.core.errors import UsageError
from prism_nb.core.paths import project_root
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
    one writer, so that accuracies are a little higher than on new handwriting. The 8x8 scans are
    enlarged bilinearly.
    """

    name = "digits"
    content_hash = None  # they come with the kit

    def __init__(self, image_size: int = 32) -> None:
        from sklearn.datasets import load_digits  # takes a second to import
        from sklearn.model_selection import train_test_split

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


class InMemoryImages(ImageDataset):
    """The images of one of torchvision's datasets, in memory.

    Images of another size than `config.image_size` are resized (bicubic, antialiased). `classes`
    are folder name and name of each, by label; pixels are uint8 [N, side, side, 3], labels int64
    [N].
    """

    def __init__(
        self,
        config: DatasetConfig,
        classes: Sequence[tuple[str, str]],
        pixels: Mapping[Split, np.ndarray],
        labels: Mapping[Split, np.ndarray],
    ) -> None:
        self.name, self.image_size = config.name, config.image_size
        folders, where = [folder for folder, _ in classes], f"the classes of {config.name}"
        chosen = choose_classes(folders, config.class_list, where=where)
        names = dict(classes)
        self.classes = tuple(ClassInfo(i, folder, names[folder]) for i, folder in enumerate(chosen))
        label_of = np.array([chosen.index(f) if f in chosen else -1 for f in folders])
        self._labels, self._pixels = dict[Split, np.ndarray](), dict[Split, np.ndarray]()
        for split in SPLITS:
            own = label_of[labels[split]].astype(np.int64)
            self._labels[split], self._pixels[split] = own[own >= 0], pixels[split][own >= 0]
        train = torch.from_numpy(self._pixels["train"]).permute(0, 3, 1, 2)
        self.mean, self.std = channel_statistics([train])
        self.content_hash = self._hash()

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._labels[split]

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        pixels = self._pixels[split][np.asarray(indices, dtype=np.int64)]
        if self.image_size != pixels.shape[1]:
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


# -- CIFAR -----------------------------------------------------------------------------------

_CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's names


def cifar(config: DatasetConfig) -> ImageDataset:
    """Open CIFAR-10 or CIFAR-100 by torchvision; 50,000 training and 10,000 held-out images.

    `data_dir` holds torchvision's `cifar-10-batches-py` or `cifar-100-python`, which are pickles.
    torchvision opens none whose MD5 is not the published one.
    """
    if config.download and config.data_dir is not None:
        config.data_dir.mkdir(parents=True, exist_ok=True)
    root, name = config.folder(), _CIFAR[config.name]
    parts = {split: _open(config, name, root, split) for split in SPLITS}
    return InMemoryImages(
        config,
        [(name, name) for name in parts["train"].classes],
        {split: part.data for split, part in parts.items()},
        {split: np.asarray(part.targets) for split, part in parts.items()},
    )


def _open(config: DatasetConfig, name: str, root: Path, split: Split) -> Any:
    """Return torchvision's dataset of a name: its `data`, `targets` and `classes`."""
    from torchvision import datasets

    remedy = f"set download to true, or data_dir to a root of torchvision.datasets.{name}"
    try:
        opener = getattr(datasets, name)
        return opener(str(root), train=split == "train", download=config.download)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{name} is not in {root}, or damaged ({error}); {remedy}") from None


# -- MNIST and Fashion-MNIST -----------------------------------------------------------------


class _Mnist(NamedTuple):
    torchvision: str  # its name there
    mean: float  # of all training pixels in [0, 1], as published for the normalisation
    folders: tuple[str, ...] = ()  # of the files, where no data_dir is named


_MNIST = {
    "mnist": _Mnist("MNIST", 0.1307),
    "fashion_mnist": _Mnist(
        "FashionMNIST",
        0.2860,
        ("data/downloads/fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    ),
}
_MEAN_TOLERANCE = 1e-3  # KMNIST's mean is 0.1918
_PARTS: dict[Split, str] = {"train": "train", "val": "t10k"}
_IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in _PARTS.values() for kind in ("images-idx3", "labels-idx1")
)


def mnist(config: DatasetConfig) -> ImageDataset:
    """Open MNIST or Fashion-MNIST by torchvision; 60,000 training and 10,000 held-out images.

    `data_dir` holds the four IDX files, compressed or not, or torchvision's folders around them.
    Without it, Fashion-MNIST is read from where `make benchmark-data` or Debian's package
    dataset-fashion-mnist puts it. Grey becomes red, green and blue.
    """
    from torchvision import datasets

    kind = _MNIST[config.name]
    if config.download and config.data_dir is not None:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        _open(config, kind.torchvision, config.data_dir, "train")
    files = _idx_files(config, kind)
    train_images, train_labels, val_images, val_labels = map(_read_idx, files)
    grey: dict[Split, np.ndarray] = {"train": train_images, "val": val_images}
    if abs((mean := train_images.mean() / 255) - kind.mean) > _MEAN_TOLERANCE:
        raise UsageError(
            f"the images in {files[0].parent} are not {kind.torchvision}'s: their mean is "
            f"{mean:.4f}, not {kind.mean}; correct dataset or data_dir"
        )
    names: list[str] = getattr(datasets, kind.torchvision).classes
    return InMemoryImages(
        config,
        [(re.sub(r"\W+", "_", name).lower(), name) for name in names],
        {split: np.broadcast_to(data[..., None], (*data.shape, 3)) for split, data in grey.items()},
        {"train": train_labels, "val": val_labels},
    )


def _idx_files(config: DatasetConfig, kind: _Mnist) -> list[Path]:
    """Return the IDX files of images and labels: of training, then held-out."""
    if config.data_dir is None and kind.folders:
        roots = [project_root() / folder for folder in kind.folders]
    else:
        roots = [config.folder()]
    folders = [root / inner for root in roots for inner in ("", "raw", f"{kind.torchvision}/raw")]
    for folder in folders:
        paths = [folder / name for name in _IDX_FILES]
        files = [path if path.is_file() else path.with_name(f"{path.name}.gz") for path in paths]
        if all(path.is_file() for path in files):
            return files
    raise UsageError(
        f"{kind.torchvision} is not in {' or '.join(map(str, roots))}, where {_IDX_FILES[0]} (or "
        ".gz), or another of the four IDX files, is missing; set data_dir to their folder, or set "
        "download to true" + (", or run `make benchmark-data`" if kind.folders else "")
    )


def _read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: its type, number of dimensions and shape, then the values."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        dimensions = content[3]
        shape = np.frombuffer(content, ">i4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except Exception as error:  # damaged files fail in many ways
        raise UsageError(f"{path} is damaged ({error}); fetch it again") from None
