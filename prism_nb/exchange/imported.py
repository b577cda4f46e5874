"""A set of images that a recipe takes over: found, counted, and read unit by unit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.data.base import ClassInfo
from prism_nb.errors import UsageError
from prism_nb.exchange.layouts import Listing, list_images
from prism_nb.exchange.pixels import decode
from prism_nb.exchange.sources import Source, open_source
from prism_nb.settings import Settings


@dataclass(frozen=True)
class ImportedSet:
    """Other people's images, `ipc` of every class.

    Attributes:
        source: Where they lie.
        listing: Which file is which image.
        size: The side of the images, in pixels.
        resize: Whether those of another size are fitted.
    """

    source: Source
    listing: Listing
    size: int
    resize: bool

    def images(self, members: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Any]]:
        """Read some images.

        Args:
            members: (class, slot) of each.

        Returns:
            Pixels, uint8 [n, 3, S, S], and a record of where they are from: the source, its
            layout, and the SHA-256 of the names and contents that were read, in order.

        Raises:
            UsageError: An image cannot be taken over; see `pixels.decode`.
        """
        hashed, pixels = hashlib.sha256(), []
        for class_index, slot in members:
            name = self.listing.classes[class_index][slot]
            content = self.source.read(name)
            hashed.update(f"{name}\n{len(content)}\n".encode())
            hashed.update(content)
            where = f"{self.source.path}: {name}"
            pixels.append(decode(content, name=where, size=self.size, resize=self.resize))
        record = {
            "source": str(self.source.path),
            "layout": self.listing.layout,
            "source_sha256": hashed.hexdigest(),
        }
        return torch.stack(pixels), record


def imported_set(settings: Settings, method: str, dataset: ImageDataset) -> ImportedSet:
    """Find the images of an imported method and check that they are as many as the run has.

    Raises:
        UsageError: They are not there, do not fit the classes, or are too few or too many; the
            first class of which that is so is named.
    """
    recipe = settings.recipe_of(method)
    source = open_source(Path(recipe.source or ""))
    listing = list_images(source, dataset.classes)
    require_counts(source, listing, dataset.classes, settings.ipc)
    return ImportedSet(source, listing, dataset.image_size, recipe.resize)


def require_counts(
    source: Source, listing: Listing, classes: Sequence[ClassInfo], ipc: int
) -> None:
    """Check that every class has `ipc` images.

    Raises:
        UsageError: One has not; the first is named.
    """
    for info, names in zip(classes, listing.classes, strict=True):
        if len(names) != ipc:
            raise UsageError(
                f"{source.path} has {len(names)} images of class {info.index} "
                f"({info.folder!r}), but ipc is {ipc}; every class needs as many, so set ipc to "
                "what the set has, or take some away from every class"
            )


def stated_ipc(path: Path, dataset: ImageDataset) -> int:
    """Return how many images a set has of its first class; 1 where it has none.

    Raises:
        UsageError: It cannot be read as a set of the dataset.
    """
    return max(1, len(list_images(open_source(path), dataset.classes).classes[0]))
