"""Work units, their seeds, and the batches of images that units of the synthesis make."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Unit:
    """A piece of work that depends on nothing but the run's settings, its inputs and its key."""

    stage: str
    name: str  # readable, unique in the stage, e.g. `prism/images000-004_classes000-009`
    marker: str  # path of its marker, relative to the run
    fingerprint: str  # hash of everything that its result depends on
    params: dict[str, Any] = field(default_factory=dict, hash=False)  # plain, of the work
    inputs: tuple[str, ...] = ()  # markers of the units whose files it reads, likewise
    parent: str = ""  # name of the unit that it is a shard of

    @property
    def event_fields(self) -> dict[str, str]:
        """The fields of events that name the unit."""
        return {"unit": self.name} | ({"parent": self.parent} if self.parent else {})


def unit_seed(seed: int, *parts: str | int) -> int:
    """Derive the seed of a unit from the run's, so that units are independent of each other.

    Text in the unit's key, `parts`, enters by its CRC-32.

    Returns:
        A 63-bit number for `torch.Generator.manual_seed`.
    """
    import numpy as np  # which takes longer than everything else of a command that only reads

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
    """The images of one unit: a range of image indices of a range of classes."""

    image_indices: tuple[int, int]  # first and one-past-last image index within the class
    classes: tuple[int, int]  # first and one-past-last class

    @property
    def name(self) -> str:
        """A readable key, e.g. `images000-004_classes000-099`, both ends included."""
        (a, b), (c, d) = self.image_indices, self.classes
        return f"images{a:03d}-{b - 1:03d}_classes{c:03d}-{d - 1:03d}"

    def members(self) -> list[tuple[int, int]]:
        """Return (class, image index) of every image, ordered by image index."""
        return [(c, s) for s in range(*self.image_indices) for c in range(*self.classes)]


def image_batches(
    form: str, classes: int, ipc: int, batch_size: int, *, share_indices: bool = True
) -> list[ImageBatch]:
    """Split the images of a method into batches of nearly equal size.

    Args:
        form: `cross_class`: as many different classes as a batch holds, and several images of each
            only where it holds them all (PRISM); `class_wise`: images of one class; `class_major`:
            all images of as many classes as a batch holds (G-VBSM, DELT).
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_indices: Whether a batch may hold several image indices; if not, `class_major` is as
            `cross_class`.

    Returns:
        Batches that hold every (class, image index) exactly once: `cross_class` in the order of
        image indices, the others in that of classes.
    """
    by_index = form == "cross_class" or (form == "class_major" and not share_indices)
    if by_index:
        indices_together, classes_together = batch_size // classes, batch_size
    elif form == "class_wise":
        indices_together, classes_together = batch_size, 1
    else:
        indices_together, classes_together = batch_size, batch_size // ipc
    runs = _split_evenly(ipc, indices_together if share_indices else 1)
    chunks = _split_evenly(classes, classes_together)
    if by_index:
        return [ImageBatch(run, chunk) for run in runs for chunk in chunks]
    return [ImageBatch(run, chunk) for chunk in chunks for run in runs]


def _split_evenly(count: int, most: int) -> list[tuple[int, int]]:
    """Split range(count) into the fewest runs of at most `most` or 1, of nearly equal length."""
    runs = -(-count // max(1, most))
    cuts = [count * i // runs for i in range(runs + 1)]
    return list(pairwise(cuts))


OnEvent = Callable[[dict[str, Any]], None]
WriteResult = Callable[[], None]
