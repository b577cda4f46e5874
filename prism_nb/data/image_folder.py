"""A dataset of image files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import default_cache_dir, short_hash
from prism_nb.data.dataset import Channels, DatasetConfig, ImageDataset, Split
from prism_nb.data.image_io import (
    IMAGENET_MARGIN,
    cached_decode,
    gather,
    open_memmap,
    read_images,
)
from prism_nb.data.index import (
    LayoutOf,
    class_infos,
    folder_layout,
    open_index,
)

_SAMPLE = 2000  # training images that mean and deviation are measured on
_PART = 200
_NAMES: dict[Split, str] = {"train": "training images", "val": "held-out images"}


class ImageFolder(ImageDataset):
    """Images in files, decoded when they are asked for.

    A split that somebody asks to `keep` is decoded once, into a file that every later look reads
    from.

    Args:
        source: Where they are and which are wanted.
        layout_of: Reads the layout of their folder.
        channels: Mean and standard deviation of the channels; measured on a sample where None.
        margin: See `decode.read_image`.
    """

    def __init__(
        self,
        source: DatasetConfig,
        layout_of: LayoutOf = folder_layout,
        channels: tuple[Channels, Channels] | None = None,
        margin: float = IMAGENET_MARGIN,
    ) -> None:
        self.name, self.image_size = source.name, source.image_size
        self._root, self._margin, self._progress = source.folder(), margin, source.progress
        self._files: dict[Split, np.ndarray | None] = {}
        self._index = open_index(source, layout_of)
        self.content_hash, self.corrupt_files = self._index.content, self._index.damaged
        self.has_class_list = bool(source.class_list)
        self.classes = class_infos(self._index.classes)
        self.mean, self.std = channels or self._measured()

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return self._index.splits[split].labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """See `ImageDataset.images`.

        Raises:
            DamagedImageError: A file cannot be decoded; it is named.
        """
        kept = self._file(split)
        return self._decoded(split, indices) if kept is None else gather(kept, indices)

    def cache(self, split: Split) -> None:
        """See `ImageDataset.cache`.

        Raises:
            DamagedImageError: A file cannot be decoded; it is named, and nothing is kept.
        """
        places = np.arange(len(self.labels(split)))
        self._files[split] = self.cache_subset(split, places, _NAMES[split])

    def uncached_bytes(self, split: Split) -> int:
        """See `ImageDataset.uncached_bytes`."""
        return (
            0
            if self._found(split) is not None
            else 3 * len(self.labels(split)) * self.image_size**2
        )

    def cache_subset(self, split: Split, places: np.ndarray, name: str) -> np.ndarray:
        """See `ImageDataset.cache_subset`."""
        return cached_decode(
            self._decoded_file(name),
            lambda indices: self._decoded(split, places[np.asarray(indices)].tolist()),
            count=len(places),
            size=self.image_size,
            what=name,
            progress=self._progress,
        )

    def class_indices(self, split: Split, index: int) -> np.ndarray:
        """See `ImageDataset.class_indices`."""
        return self._by_class[split][index]

    @cached_property
    def _by_class(self) -> dict[Split, list[np.ndarray]]:
        """Places of every class, found at once: a thousand searches of a million are slow."""
        found: dict[Split, list[np.ndarray]] = {}
        for split, part in self._index.splits.items():
            counts = np.bincount(part.labels, minlength=len(self.classes))
            order = np.argsort(part.labels, kind="stable")
            found[split] = np.split(order, np.cumsum(counts)[:-1])
        return found

    def _decoded(self, split: Split, indices: Sequence[int]) -> Tensor:
        paths = self._index.splits[split].paths(self._root, indices)
        return read_images(paths, self.image_size, self._margin)

    def _file(self, split: Split) -> np.ndarray | None:
        """Return a split's decoded images, if they were kept."""
        if split not in self._files:
            self._files[split] = self._found(split)
        return self._files[split]

    def _found(self, split: Split) -> np.ndarray | None:
        path = self._decoded_file(_NAMES[split])
        return open_memmap(path, count=len(self.labels(split)), size=self.image_size)

    def _decoded_file(self, name: str) -> Path:
        ending = "npy" if name == _NAMES["val"] else f"{name.replace(' ', '-')}.npy"
        return self._kept("decoded", ending)

    def _kept(self, what: str, ending: str) -> Path:
        """Return where something is kept that follows from the files, size and margin."""
        key = short_hash([self.content_hash, self.image_size, self._margin])
        return default_cache_dir() / what / f"{key}.{ending}"

    def _measured(self) -> tuple[Channels, Channels]:
        """Return mean and deviation of a fixed random sample of the training images, kept."""
        path = self._kept("channels", "json")
        kept = fileio.read_record(path)
        if not kept:
            mean, std = self._measure()
            fileio.write_json(path, {"mean": mean, "std": std})
            return mean, std
        return tuple(kept["mean"]), tuple(kept["std"])

    def _measure(self) -> tuple[Channels, Channels]:
        count = len(self.labels("train"))
        sample = np.random.default_rng(0).permutation(count)[:_SAMPLE].tolist()
        sums, squares = np.zeros(3), np.zeros(3)
        for start in range(0, len(sample), _PART):
            pixels = self.images("train", sample[start : start + _PART]).double() / 255
            sums += pixels.sum((0, 2, 3)).numpy()
            squares += pixels.square().sum((0, 2, 3)).numpy()
        number = len(sample) * self.image_size**2
        mean = sums / number
        std = np.sqrt(np.maximum(squares / number - mean**2, 0))
        return _rounded(mean), _rounded(np.maximum(std, 1e-3))


def _rounded(values: np.ndarray) -> Channels:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
