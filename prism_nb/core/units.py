"""Work units: what one is, the random numbers it owns, and the marker that says it is done."""

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
        stage: The stage that it belongs to.
        name: Unique within the stage and readable, e.g. `prism/images000-004_classes000-009`.
        marker: Path of its marker, relative to the run.
        fingerprint: Digest of everything that its result depends on.
        params: Plain values that say what to do.
        inputs: Markers of the units whose files it reads, relative to the run.
        parent: Name of the unit that it is a piece of; empty for a unit of its own.
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
        """What events say to name it."""
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
    """Return a network's name as part of a file name: `timm/resnet18` as `timm--resnet18`.

    Of weights from a file, the file's name and eight digits that tell its folder from others.
    """
    architecture, _, weights = name.partition("@")
    if "/" in weights:
        weights = f"{weights.rpartition('/')[2]}-{zlib.crc32(weights.encode()):08x}"
    return f"{architecture}@{weights}".removesuffix("@").replace("/", "--")


def is_pretrained_name(name: str) -> bool:
    """Return whether a network's name says where its weights come from.

    That is `NAME@WEIGHTS` or timm's `NAME.TAG`; no architecture's name holds either sign.
    """
    return "@" in name or "." in name


@dataclass(frozen=True)
class ImageBatch:
    """The images of one unit: every slot of every class in two ranges.

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
        """Return (class, image index) of every image, slot by slot."""
        return [(c, s) for s in range(*self.image_indices) for c in range(*self.classes)]


def cross_class(
    classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Fill batches with as many different classes as they hold (PRISM's cross-class batches).

    With at least `batch_size` classes, a batch holds one slot of a run of consecutive classes.
    With fewer, several slots share a batch, so that it still carries statistics. Runs are as
    equal in length as they can be, since a small rest would make poor statistics.

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_indices: Whether several slots may share a batch.

    Returns:
        Batches that hold every (class, image index) exactly once, slots ascending.
    """
    slots_together = max(1, batch_size // classes) if share_indices else 1
    return [
        ImageBatch(image_indices, chunk)
        for image_indices in _even(ipc, slots_together)
        for chunk in _even(classes, batch_size)
    ]


def class_wise(
    classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Fill each batch with images of one class, as many slots as it holds.

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_indices: Whether several slots may share a batch; a batch of one image if not.

    Returns:
        Batches that hold every (class, image index) exactly once, classes ascending.
    """
    runs = _even(ipc, batch_size if share_indices else 1)
    return [ImageBatch(image_indices, (c, c + 1)) for c in range(classes) for image_indices in runs]


def class_major(
    classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Fill each batch with all slots of as many classes as it holds (G-VBSM, DELT).

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1; a class of more is cut.
        share_indices: Whether several slots may share a batch; batches are `cross_class` if not.

    Returns:
        Batches that hold every (class, image index) exactly once, classes ascending.
    """
    if not share_indices:
        return cross_class(classes, ipc, batch_size, share_indices=False)
    return [
        ImageBatch(image_indices, chunk)
        for chunk in _even(classes, max(1, batch_size // ipc))
        for image_indices in _even(ipc, batch_size)
    ]


def _even(count: int, most: int) -> list[tuple[int, int]]:
    """Cut range(count) into the fewest runs of at most `most`, lengths differing by one at most."""
    runs = -(-count // most)
    cuts = [count * i // runs for i in range(runs + 1)]
    return list(pairwise(cuts))


OnEvent = Callable[[dict[str, Any]], None]
WriteResult = Callable[[], None]
