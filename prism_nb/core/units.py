"""Work units, their seeds, and the batches of images that units of the synthesis make."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Unit:
    """A piece of work that depends on nothing but the run's settings, its inputs and its key.

    Attributes:
        stage: The stage.
        name: Readable name, unique in the stage, e.g. `prism/images000-004_classes000-009`.
        marker: Path of its marker, relative to the run.
        fingerprint: Hash of everything that its result depends on.
        params: Plain parameters of the work.
        inputs: Markers of the units whose files it reads, relative to the run.
        parent: Name of the unit that it is a shard of; empty for others.
    """

    stage: str
    name: str
    marker: str
    fingerprint: str
    params: dict[str, Any] = field(default_factory=dict, hash=False)
    inputs: tuple[str, ...] = ()
    parent: str = ""

    @property
    def event_fields(self) -> dict[str, str]:
        """The fields of events that name the unit."""
        return {"unit": self.name} | ({"parent": self.parent} if self.parent else {})


def unit_seed(seed: int, *parts: str | int) -> int:
    """Derive the seed of a unit from the run's, so that units are independent of each other.

    Args:
        seed: The run's seed.
        parts: The unit's key; text enters by its CRC-32.

    Returns:
        A 63-bit number for `torch.Generator.manual_seed`.
    """
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def slug(name: str) -> str:
    """Return a network's name as part of a file name, e.g. `timm--resnet18`.

    A weights file is given by its name and a checksum of its path.
    """
    architecture, _, weights = name.partition("@")
    if "/" in weights:
        weights = f"{weights.rpartition('/')[2]}-{zlib.crc32(weights.encode()):08x}"
    return f"{architecture}@{weights}".removesuffix("@").replace("/", "--")


def is_pretrained_name(name: str) -> bool:
    """Return whether a network's name has weights: `NAME@WEIGHTS`, or timm's `NAME.TAG`."""
    return "@" in name or "." in name


@dataclass(frozen=True)
class ImageBatch:
    """The images of one unit: a range of image indices of a range of classes.

    Attributes:
        image_indices: First and one-past-last image index within the class.
        classes: First and one-past-last class.
    """

    image_indices: tuple[int, int]
    classes: tuple[int, int]

    @property
    def name(self) -> str:
        """A readable key, e.g. `images000-004_classes000-099`, both ends included."""
        (a, b), (c, d) = self.image_indices, self.classes
        return f"images{a:03d}-{b - 1:03d}_classes{c:03d}-{d - 1:03d}"

    def members(self) -> list[tuple[int, int]]:
        """Return (class, image index) of every image, ordered by image index."""
        return [(c, s) for s in range(*self.image_indices) for c in range(*self.classes)]


def cross_class(
    classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Fill batches with as many different classes as they hold (PRISM's cross-class batches).

    With at least `batch_size` classes, a batch holds one image of each of consecutive classes.
    With fewer classes, it holds several images of each. Batches are as equal in size as possible,
    since a small rest has poor statistics.

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_indices: Whether a batch may hold several image indices.

    Returns:
        Batches that hold every (class, image index) exactly once, image indices ascending.
    """
    indices_together = max(1, batch_size // classes) if share_indices else 1
    return [
        ImageBatch(image_indices, chunk)
        for image_indices in _split_evenly(ipc, indices_together)
        for chunk in _split_evenly(classes, batch_size)
    ]


def class_wise(
    classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Fill each batch with images of one class.

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_indices: Whether a batch may hold several image indices.

    Returns:
        Batches that hold every (class, image index) exactly once, classes ascending.
    """
    runs = _split_evenly(ipc, batch_size if share_indices else 1)
    return [ImageBatch(image_indices, (c, c + 1)) for c in range(classes) for image_indices in runs]


def class_major(
    classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Fill each batch with all images of as many classes as it holds (G-VBSM, DELT).

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1; a class of more is split.
        share_indices: Whether a batch may hold several image indices; else as `cross_class`.

    Returns:
        Batches that hold every (class, image index) exactly once, classes ascending.
    """
    if not share_indices:
        return cross_class(classes, ipc, batch_size, share_indices=False)
    return [
        ImageBatch(image_indices, chunk)
        for chunk in _split_evenly(classes, max(1, batch_size // ipc))
        for image_indices in _split_evenly(ipc, batch_size)
    ]


def _split_evenly(count: int, most: int) -> list[tuple[int, int]]:
    """Split range(count) into the fewest runs of at most `most`, of nearly equal length."""
    runs = -(-count // most)
    cuts = [count * i // runs for i in range(runs + 1)]
    return list(pairwise(cuts))


OnEvent = Callable[[dict[str, Any]], None]
WriteResult = Callable[[], None]
