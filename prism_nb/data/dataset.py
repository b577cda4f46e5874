"""Labelled images in a fixed class order: the interface of every dataset."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.paths import data_folder
from prism_nb.core.settings import Settings

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class ClassInfo:
    """One class."""

    index: int  # position in the class order: logit `index` belongs to this class
    folder: str  # folder name in image trees, e.g. a wnid
    name: str  # readable


class ImageDataset(ABC):
    """Labelled real images of one size. A subclass sets every attribute that has no default."""

    name: str
    classes: tuple[ClassInfo, ...]  # in order
    mean: Channels  # of the training images, in [0, 1]; with `std`, the canonical pixel space
    std: Channels  # likewise
    image_size: int  # side of the square images, in pixels
    # Digest of classes and files, to which runs are bound; None for images of the kit alone.
    content_hash: str | None
    has_images: bool = True  # whether there are real images; else every split is empty

    @abstractmethod
    def labels(self, split: Split) -> np.ndarray:
        """Return the class index of every image of a split, in file order, int64 [N]."""

    @abstractmethod
    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Return images by their index in the split, uint8 RGB [n, 3, size, size]."""

    def cache(self, split: Split) -> None:  # noqa: B027 (images in memory need nothing)
        """Decode a split into the disk cache, for uses that read its images many times."""

    def uncached_bytes(self, splits: Collection[Split]) -> int:
        """Return the bytes that caching these splits would write."""
        return 0

    def class_indices(self, split: Split, index: int) -> np.ndarray:
        """Return the indices of one class's images in a split, in file order."""
        return np.flatnonzero(self.labels(split) == index)

    def class_records(self) -> list[dict[str, Any]]:
        """Return the class order as plain values, for `classes.json`."""
        return [asdict(info) for info in self.classes]

    def check_per_class(self, ipc: int, *, purpose: str, each: int = 1) -> None:
        """Check that every class has enough training images.

        That is `each` for every one of `ipc` images; `purpose` is the subject of the message.
        """
        counts = np.bincount(self.labels("train"), minlength=len(self.classes))
        for info in self.classes:
            if counts[info.index] < ipc * each:
                raise UsageError(
                    f"{purpose} needs {ipc * each} training images per class, but class "
                    f"{info.folder!r} of {self.name} has {counts[info.index]}; lower ipc to "
                    f"{counts.min() // each} or less"
                )

    def normalize(self, images: Tensor) -> Tensor:
        """Bring uint8 images [..., 3, H, W] into canonical pixel space, as float32."""
        mean, std = self._channels(images.device)
        return (images.to(torch.float32) / 255 - mean) / std

    def to_uint8(self, images: Tensor, *, rounded: bool = True) -> Tensor:
        """Convert canonical images to uint8: clamped, and rounded or else truncated."""
        mean, std = self._channels(images.device)
        levels = (images * std + mean) * 255
        return (levels.round() if rounded else levels).clamp(0, 255).to(torch.uint8)

    def pixel_bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the canonical values of black and white, each [3, 1, 1]."""
        mean, std = self._channels(device)
        return (0 - mean) / std, (1 - mean) / std

    def _channels(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        return mean, torch.tensor(self.std, device=device).view(3, 1, 1)


class ShapeOnlyDataset(ImageDataset):
    """Classes, and numbers of images that are equal for all of them, without the images."""

    def __init__(
        self,
        name: str,
        classes: tuple[ClassInfo, ...],
        image_size: int,
        train: int = 0,
        val: int = 0,
        *,
        channels: tuple[Channels, Channels] = ((0.5,) * 3, (0.5,) * 3),
        content_hash: str | None = None,
    ) -> None:
        self.name, self.classes, self.image_size = name, classes, image_size
        self.mean, self.std = channels
        self.content_hash = content_hash
        self.has_images = train > 0
        self._counts: dict[Split, int] = {"train": train, "val": val}

    def labels(self, split: Split) -> np.ndarray:
        """See `ImageDataset.labels`."""
        return np.arange(self._counts[split], dtype=np.int64) % len(self.classes)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Refuse: there are none."""
        raise ValueError(f"{self.name} has no real images here")


@dataclass(frozen=True)
class DatasetConfig:
    """The settings that decide a dataset; `progress`, a bar while decoding, does not."""

    name: str
    image_size: int
    data_dir: Path | None = None  # its folder; None for one that comes with the kit
    class_list: tuple[str, ...] = ()  # folder names of the classes to take, in order; empty: all
    download: bool = False  # whether torchvision may fetch it
    skip_damaged: bool = False  # whether image files that cannot be decoded are left out
    progress: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, settings: Settings) -> DatasetConfig:
        """Return the dataset's part of a run's settings."""
        return cls(
            name=settings.dataset,
            image_size=settings.image_size,
            data_dir=Path(settings.data_dir).absolute() if settings.data_dir else None,
            class_list=settings.class_list,
            download=settings.download,
            skip_damaged=settings.skip_damaged,
            progress=settings.progress,
        )

    def folder(self) -> Path:
        """Return `data_dir`, which must exist."""
        return data_folder(self.name, self.data_dir)


def choose_classes(
    available: Sequence[str], class_list: Sequence[str], *, where: Path | str
) -> tuple[str, ...]:
    """Return the classes of `class_list`, or all that are available if it is empty."""
    class_list = spelled_as(class_list, available)
    unknown = [name for name in class_list if name not in available]
    if unknown:
        raise UsageError(
            f"class_list: {len(unknown)} of {len(class_list)} names are not among {where}, "
            f"e.g. {unknown[0]!r}; {suggest(unknown[0], available)}"
        )
    chosen = tuple(class_list or available)
    for name in chosen:
        if not name.isascii() and name.encode("utf-8", "replace").decode() != name:
            raise UsageError(
                f"class folder {name!r} in {where} is not UTF-8; rename it, or use class_list"
            )
    return chosen


def spelled_as(names: Sequence[str], available: Sequence[str]) -> list[str]:
    """Return names as they are spelled among the available ones.

    Unicode has two spellings of letters such as é, which look alike: macOS and others differ.
    """
    composed = {unicodedata.normalize("NFC", name): name for name in available}
    spelling = composed | {name: name for name in available}
    return [spelling.get(n) or composed.get(unicodedata.normalize("NFC", n), n) for n in names]


def channel_statistics(batches: Iterable[Tensor]) -> tuple[Channels, Channels]:
    """Return mean and deviation of each channel of images, to four digits and in [0, 1].

    Batches are uint8 [n, 3, H, W]; counts of their 256 levels decide, so that the batches do not
    matter.
    """
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for images in batches:
        for channel in range(3):
            counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
    shares = counts / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (shares * levels).sum(1)
    std = (shares * (levels - mean[:, None]).square()).sum(1).sqrt().clamp_min(1e-3)
    return _rounded(mean), _rounded(std)


def _rounded(values: Tensor) -> Channels:
    red, green, blue = (round(value, 4) for value in values.tolist())
    return red, green, blue
