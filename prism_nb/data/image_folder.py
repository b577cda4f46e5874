"""Datasets of image files, and the layout `train/<class>/`, `val/<class>/`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import UsageError
from prism_nb.core.paths import default_cache_dir
from prism_nb.data.dataset import (
    Channels,
    DatasetConfig,
    ImageDataset,
    Split,
    channel_statistics,
    choose_classes,
    spelled_as,
)
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
    is_hidden,
    is_image_name,
    is_litter,
    open_index,
)

TRAIN = "train"
HELD_OUT = ("val", "validation", "test")
_INNER = "images"  # of the class folders of Tiny-ImageNet
_SAMPLE = 2000  # training images that mean and deviation are measured on
_CHUNK = 200
_NAMES: dict[Split, str] = {"train": "training images", "val": "held-out images"}


def folder_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<class>/*` and the first of val, validation and test likewise."""
    classes = choose_classes(train_folders(root), class_list, where=root / TRAIN)
    held_out = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out is None:
        raise UsageError(
            f"{root} has no folder of held-out images; name it val, validation or test"
        )
    dirs = [class_dirs(root, split, classes) for split in (TRAIN, held_out)]
    return DatasetLayout(classes, dirs[0], dirs[1])


def train_folders(root: Path) -> list[str]:
    """Return the names of the classes' folders in `train`, sorted."""
    found = class_folders(root / TRAIN)
    if not found:
        raise UsageError(
            f"{root / TRAIN} holds no class folders; set data_dir to the folder that holds "
            "train/<class>/<image> and val/<class>/<image>"
        )
    return found


def class_folders(folder: Path) -> list[str]:
    """Return the names of visible folders, sorted, with links to folders that are away."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if not is_hidden(path.name) and (path.is_dir() or not path.exists())
    )


def holds_class_folders(folder: Path) -> bool:
    """Return whether a folder holds folders, and no images beside them."""
    return bool(class_folders(folder)) and not any(
        is_image_name(path.name) and not is_litter(path.name) for path in folder.iterdir()
    )


def class_dirs(root: Path, split: str, classes: Sequence[str]) -> list[ImageDir]:
    """Return the folder of each class's images in a split.

    That is `<class>`, or `<class>/images` as in Tiny-ImageNet; or both in a folder `images`.
    """
    found = class_folders(root / split)
    names = spelled_as(classes, found)
    if found == [_INNER] and _INNER not in names and holds_class_folders(root / split / _INNER):
        return class_dirs(root, f"{split}/{_INNER}", classes)
    if not set(names) & set(found):
        raise UsageError(
            f"{root / split} has no folder of any class, such as {names[0]!r}, but "
            f"{', '.join(map(repr, found[:3])) or 'no folders'}; put its images into a folder per "
            "class, named as in train"
        )
    dirs = []
    for label, name in enumerate(names):
        folder = f"{split}/{name}"
        if (root / folder / _INNER).is_dir() and holds_class_folders(root / folder):
            folder += f"/{_INNER}"
        dirs.append(ImageDir(folder, label))
    return dirs


class ImageFolder(ImageDataset):
    """Images in files, decoded on access, or once into the disk cache.

    `channels` are mean and deviation of the channels, measured on a fixed random sample of training
    images where None; `margin`, at least 1, is the shorter side before the centre crop, divided by
    the image size.
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
        self.classes = class_infos(self._index.classes)
        self.mean, self.std = channels or self._channel_statistics()

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._index.splits[split].labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`."""
        if split not in self._cached:
            self._cached[split] = self._open_cached(split)
        cached = self._cached[split]
        return self._decode(split, indices) if cached is None else gather(cached, indices)

    def cache(self, split: Split) -> None:
        """See `ImageDataset.cache`."""
        self._cached[split] = cached_decode(
            self._decoded_path(split),
            lambda indices: self._decode(split, indices),
            shape=self._shape(split),
            what=_NAMES[split],
            progress=self._progress,
        )

    def uncached_bytes(self, splits: Collection[Split]) -> int:
        """See `ImageDataset.uncached_bytes`."""
        missing = [split for split in splits if self._open_cached(split) is None]
        return sum(int(np.prod(self._shape(split))) for split in missing)

    def _decode(self, split: Split, indices: Sequence[int]) -> Tensor:
        paths = self._index.splits[split].paths(self._root, indices)
        return read_images(paths, self.image_size, self._margin)

    def _open_cached(self, split: Split) -> np.ndarray | None:
        return open_memmap(self._decoded_path(split), self._shape(split))

    def _shape(self, split: Split) -> tuple[int, int, int, int]:
        return len(self.labels(split)), 3, self.image_size, self.image_size

    def _decoded_path(self, split: Split) -> Path:
        return self._cache_path("decoded", f"{split}.npy")

    def _cache_path(self, kind: str, suffix: str) -> Path:
        """Return the path of something that depends only on files, image size and margin."""
        key = short_hash([self.content_hash, self.image_size, self._margin])
        return default_cache_dir() / kind / f"{key}.{suffix}"

    def _channel_statistics(self) -> tuple[Channels, Channels]:
        """Return mean and deviation of a sample of training images, cached."""
        path = self._cache_path("channels", "json")
        cached = fileio.read_record(path)
        if not cached:
            count = len(self.labels("train"))
            sample = np.random.default_rng(0).permutation(count)[:_SAMPLE].tolist()
            starts = range(0, len(sample), _CHUNK)
            batches = (self.images("train", sample[start : start + _CHUNK]) for start in starts)
            mean, std = channel_statistics(batches)
            cached = {"mean": mean, "std": std}
            fileio.write_json(path, cached)
        return tuple(cached["mean"]), tuple(cached["std"])
