"""What every dataset offers to the stages above."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.errors import UsageError
from prism_nb.core.units import unit_seed

Split = Literal["train", "val"]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class ClassInfo:
    """One class.

    Attributes:
        index: Its place in the class order: logit i belongs to class i.
        folder: Folder name in image trees, e.g. a wnid.
        name: What people call it.
    """

    index: int
    folder: str
    name: str


class ImageDataset(ABC):
    """Labelled real images of one size.

    Attributes:
        name: The dataset's name.
        classes: The classes, in order.
        mean: Mean of each channel over the training images, in [0, 1]; canonical pixel space.
        std: Standard deviation of each channel, likewise.
        image_size: Side of the square images, in pixels.
        content: Digest of the classes and files; None where the kit itself holds the images.
        chosen: Whether a class list took some of the classes.
        damaged: Files left out because they cannot be decoded, from the dataset's folder.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    mean: Channels
    std: Channels
    image_size: int
    content: str | None = None
    chosen: bool = False
    damaged: tuple[str, ...] = ()

    @abstractmethod
    def labels(self, split: Split) -> np.ndarray:
        """Return the class index of every image of a split, in file order, int64 [N]."""

    @abstractmethod
    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        """Return images by their place in the split, as uint8 RGB [n, 3, size, size]."""

    def fits(self, content: str | None) -> bool:
        """Return whether these are the images that a run is bound to; None: to no certain ones."""
        return content in {None, self.content}

    def keep(self, split: Split) -> None:  # noqa: B027 (images in memory need nothing)
        """Make many looks at a split's images cheap: what lies in files is decoded once."""

    def bytes_to_keep(self, split: Split) -> int:
        """Return what `keep` would write to the disk of the cache; 0 where nothing is missing."""
        return 0

    def kept_part(self, split: Split, places: np.ndarray, name: str) -> np.ndarray | None:
        """Return some images from a file of their own, decoded once; None where none is needed.

        Args:
            split: The split.
            places: Which of its images.
            name: What they are called; it must say which.
        """
        return None

    def of_class(self, split: Split, index: int) -> np.ndarray:
        """Return the places of one class's images in a split, in file order."""
        return np.flatnonzero(self.labels(split) == index)

    def class_records(self) -> list[dict[str, Any]]:
        """Return the class order as plain values, for `classes.json`."""
        return [asdict(info) for info in self.classes]

    def require_per_class(self, ipc: int, *, purpose: str, each: int = 1) -> None:
        """Check that every class has enough training images.

        Args:
            ipc: Images per class that are to be made.
            purpose: What they are, for the message.
            each: Training images that one of them is made of.

        Raises:
            UsageError: A class has fewer than that takes; it is named.
        """
        counts = np.bincount(self.labels("train"), minlength=len(self.classes))
        for info in self.classes:
            if counts[info.index] < ipc * each:
                raise UsageError(
                    f"{purpose} needs {ipc * each} training images per class, but class "
                    f"{info.folder!r} of {self.name} has {counts[info.index]}; lower ipc to "
                    f"{counts.min() // each} or less"
                )

    def canonical(self, images: Tensor) -> Tensor:
        """Bring uint8 images [..., 3, H, W] into canonical pixel space, as float32."""
        mean, std = self._channels(images.device)
        return (images.to(torch.float32) / 255 - mean) / std

    def bytes_of(self, images: Tensor, *, rounded: bool = True) -> Tensor:
        """Bring canonical images back to uint8: clamped, and rounded or else cut off."""
        mean, std = self._channels(images.device)
        levels = (images * std + mean) * 255
        return (levels.round() if rounded else levels).clamp(0, 255).to(torch.uint8)

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the canonical values of black and white, each [3, 1, 1]."""
        mean, std = self._channels(device)
        return (0 - mean) / std, (1 - mean) / std

    def _channels(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        return mean, torch.tensor(self.std, device=device).view(3, 1, 1)


def shuffled_indices(dataset: ImageDataset, c: int, *, seed: int, tag: str) -> np.ndarray:
    """Return where a class's training images lie, int64 [n], in the order of `random_real`."""
    places = dataset.of_class("train", c)
    return np.random.default_rng(unit_seed(seed, tag, c)).permutation(places)
