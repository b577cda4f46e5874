"""Work units: what one is, the random numbers it owns, and the marker that says it is done."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Unit:
    """A piece of work that depends on nothing but the run's settings, its inputs and its key.

    Attributes:
        stage: The stage that it belongs to.
        name: Unique within the stage and readable, e.g. `prism/slots000-004_classes000-009`.
        marker: Path of its marker, relative to the run.
        binding: Digest of everything that its result depends on.
        key: Plain values that say what to do.
        inputs: Markers of the units whose files it reads, relative to the run.
        part_of: Name of the unit that it is a piece of; empty for a unit of its own.
    """

    stage: str
    name: str
    marker: str
    binding: str
    key: dict[str, Any] = field(default_factory=dict, hash=False)
    inputs: tuple[str, ...] = ()
    part_of: str = ""

    @property
    def words(self) -> dict[str, str]:
        """What events say to name it."""
        return {"unit": self.name} | ({"part_of": self.part_of} if self.part_of else {})


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


def has_weights(name: str) -> bool:
    """Return whether a network's name says where its weights come from.

    That is `NAME@WEIGHTS` or timm's `NAME.TAG`; no architecture's name holds either sign.
    """
    return "@" in name or "." in name
