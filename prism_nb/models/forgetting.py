"""Forgetting events of training images, counted while a network is trained."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit

NEVER_LEARNED = 255  # in place of a count


class ForgettingCounter:
    """Counter of images that were classified correctly when last seen, and are not any more.

    An image counts at each step that trains on it, as augmented there (Toneva et al., An Empirical
    Study of Example Forgetting, ICLR 2019, algorithm 1).

    Attributes:
        state: Of each image, whether it was right when last seen, bool [images], and its events,
            int32 [images].
    """

    def __init__(self, images: int) -> None:
        self.state = [torch.zeros(images, dtype=kind) for kind in (torch.bool, torch.int32)]

    def update(self, rows: Tensor, right: Tensor) -> None:
        """Count a batch of different images, by their rows [n] and whether they are right [n]."""
        self.state[:] = (part.to(right.device) for part in self.state)
        (was_right, events), rows = self.state, rows.to(right.device)
        events[rows] += was_right[rows] & ~right
        was_right[rows] = right

    def record(self) -> str:
        """Return the images' events as text: bytes below 255, or `NEVER_LEARNED`, compressed."""
        was_right, events = (part.cpu() for part in self.state)
        counts = events.clamp(max=NEVER_LEARNED - 1)
        counts[~was_right & (events == 0)] = NEVER_LEARNED
        packed = zlib.compress(counts.to(torch.uint8).numpy().tobytes())
        return base64.b64encode(packed).decode()


def forgetting_events(run: Run, name: str) -> np.ndarray:
    """Return how often a network of a run forgot each training image, uint8 [N]."""
    unit = network_unit(run.settings, name)
    text = (run.units.marker(unit) or {}).get("record", {}).get("forgetting")
    if text is None:
        raise PrismError(
            f"run {run.name} did not count the images that {name!r} forgot; the squeeze does so "
            f"where it trains a network: delete {run.file(unit.marker)}, and run it again"
        )
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
