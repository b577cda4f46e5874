"""Datasets of image files, and the layout `train/<class>/`, `val/<class>/`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import default_cache_dir, short_hash
from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import Channels, DatasetConfig, ImageDataset, Split, choose_classes
from prism_nb.data.image_io import (
    IMAGENET_MARGIN,
    cached_decode,
    gather,
    open_memmap,
    read_images,
)
from prism_nb.data.index import (
    DatasetLayout,
    ImageDir,
    ReadLayout,
    class_infos,
    is_image_name,
    open_index,
)

TRAIN = "train"
_HELD_OUT = ("val", "validation", "test")


def folder_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<class>/*` and `val/<class>/*`, where val may be called validation or test.

    Raises:
        UsageError: A folder is missing, a class is in one split only, or a listed one in none.
    """
    train = train_classes(root)
    held_out = _held_out_folder(root)
    val = class_folders(root / held_out)
    classes = choose_classes(train, class_list, where=root / TRAIN)
    check_folders(classes, val, root / held_out)
    if not class_list:
        check_folders(val, train, root / TRAIN)
    return DatasetLayout(
        classes=classes,
        dirs={"train": class_dirs(TRAIN, classes), "val": class_dirs(held_out, classes)},
        read_from=(".", TRAIN, held_out),
    )


def train_classes(root: Path) -> list[str]:
    """Return the class folders of `train/`, which must exist."""
    if not (root / TRAIN).is_dir():
        raise UsageError(
            f"{root} has no folder {TRAIN!r}; data_dir must hold {TRAIN}/<class>/<image> and "
            "val/<class>/<image>"
        )
    return class_folders(root / TRAIN)


def class_folders(folder: Path) -> list[str]:
    """Return the names of visible folders, sorted; refuse images of no class next to them."""
    folders, loose = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif is_image_name(entry.name):
                loose.append(entry.name)
    if folders and loose:
        raise UsageError(
            f"{len(loose)} images lie next to the class folders of {folder}, e.g. {min(loose)}; "
            "move each into the folder of its class, or away"
        )
    return sorted(folders)


def check_folders(folders: Sequence[str], available: Sequence[str], where: Path) -> None:
    """Check that every class to use has a folder."""
    missing = sorted(set(folders) - set(available))
    if missing:
        raise UsageError(
            f"{len(missing)} classes have no folder in {where}, e.g. {missing[0]!r}; a class must "
            "be in both splits: add the folder, or choose classes by class_list"
        )


def class_dirs(folder: str, classes: Sequence[str], inner: str = "") -> tuple[ImageDir, ...]:
    """Return a folder of images per class; `inner` is the folder within it that holds them."""
    end = f"/{inner}" if inner else ""
    return tuple(ImageDir(f"{folder}/{name}{end}", label) for label, name in enumerate(classes))


def _held_out_folder(root: Path) -> str:
    found = [name for name in _HELD_OUT if (root / name).is_dir()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{root} has no folder of held-out images; name it val, validation or test"
        )
    raise UsageError(
        f"{root} has {' and '.join(found)}; which one is held out? Move the others out of data_dir"
    )


_SAMPLE = 2000  # training images that mean and deviation are measured on
_CHUNK = 200
_NAMES: dict[Split, str] = {"train": "training images", "val": "held-out images"}


class ImageFolder(ImageDataset):
    """Images in files, decoded on access, or once into the disk cache.

    Args:
        config: Their folder, classes and size.
        read_layout: Reads the layout of the folder.
        channels: Mean and standard deviation of the channels; None: measured on a sample.
        margin: Shorter side before the centre crop, divided by the image size; at least 1.
    """

    def __init__(
        self,
        config: DatasetConfig,
        read_layout: ReadLayout = folder_layout,
        channels: tuple[Channels, Channels] | None = None,
        margin: float = IMAGENET_MARGIN,
    ) -> None:
        self.name, self.image_size = config.name, config.image_size
        self._root, self._margin, self._progress = config.folder(), margin, config.progress
        self._cached: dict[Split, np.ndarray | None] = {}
        self._index = open_index(config, read_layout)
        self.content_hash = self._index.content_hash()
        self.corrupt_files = self._index.corrupt_files
        self.has_class_list = bool(config.class_list)
        self.classes = class_infos(self._index.classes)
        self.mean, self.std = channels or self._channel_statistics()

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._index.splits[split].labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`; raises `CorruptImageError` for a file that is damaged."""
        if split not in self._cached:
            self._cached[split] = self._open_cached(split)
        cached = self._cached[split]
        return self._decode(split, indices) if cached is None else gather(cached, indices)

    def class_indices(self, split: Split, index: int) -> np.ndarray:
        """See `ImageDataset.class_indices`."""
        return self._by_class[split][index]

    def cache(self, split: Split) -> None:
        """See `ImageDataset.cache`; raises `CorruptImageError` for a file that is damaged."""
        indices = np.arange(len(self.labels(split)))
        self._cached[split] = self.cache_subset(split, indices, _NAMES[split])

    def uncached_bytes(self, split: Split) -> int:
        """See `ImageDataset.uncached_bytes`."""
        missing = self._open_cached(split) is None
        return 3 * len(self.labels(split)) * self.image_size**2 if missing else 0

    def cache_subset(self, split: Split, indices: np.ndarray, name: str) -> np.ndarray:
        """See `ImageDataset.cache_subset`."""
        return cached_decode(
            self._decoded_path(name),
            lambda rows: self._decode(split, indices[np.asarray(rows)].tolist()),
            count=len(indices),
            size=self.image_size,
            what=name,
            progress=self._progress,
        )

    def _decode(self, split: Split, indices: Sequence[int]) -> Tensor:
        paths = self._index.splits[split].paths(self._root, indices)
        return read_images(paths, self.image_size, self._margin)

    def _open_cached(self, split: Split) -> np.ndarray | None:
        path = self._decoded_path(_NAMES[split])
        return open_memmap(path, count=len(self.labels(split)), size=self.image_size)

    def _decoded_path(self, name: str) -> Path:
        return self._cache_path("decoded", f"{name.replace(' ', '-')}.npy")

    def _cache_path(self, kind: str, suffix: str) -> Path:
        """Return the path of something that depends only on files, image size and margin."""
        key = short_hash([self.content_hash, self.image_size, self._margin])
        return default_cache_dir() / kind / f"{key}.{suffix}"

    @cached_property
    def _by_class(self) -> dict[Split, list[np.ndarray]]:
        """Indices of every class, by one sort: a thousand searches of a million are slow."""
        found: dict[Split, list[np.ndarray]] = {}
        for split, part in self._index.splits.items():
            counts = np.bincount(part.labels, minlength=len(self.classes))
            order = np.argsort(part.labels, kind="stable")
            found[split] = np.split(order, np.cumsum(counts)[:-1])
        return found

    def _channel_statistics(self) -> tuple[Channels, Channels]:
        """Return mean and deviation of a fixed random sample of training images, cached."""
        path = self._cache_path("channels", "json")
        cached = fileio.read_record(path)
        if cached:
            return tuple(cached["mean"]), tuple(cached["std"])
        mean, std = self._measure_channels()
        fileio.write_json(path, {"mean": mean, "std": std})
        return mean, std

    def _measure_channels(self) -> tuple[Channels, Channels]:
        count = len(self.labels("train"))
        sample = np.random.default_rng(0).permutation(count)[:_SAMPLE].tolist()
        sums, squares = np.zeros(3), np.zeros(3)
        for start in range(0, len(sample), _CHUNK):
            pixels = self.images("train", sample[start : start + _CHUNK]).double() / 255
            sums += pixels.sum((0, 2, 3)).numpy()
            squares += pixels.square().sum((0, 2, 3)).numpy()
        number = len(sample) * self.image_size**2
        mean = sums / number
        std = np.sqrt(np.maximum(squares / number - mean**2, 0))
        return _rounded(mean), _rounded(np.maximum(std, 1e-3))


def _rounded(values: np.ndarray) -> Channels:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
