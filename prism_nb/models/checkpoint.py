"""Checkpoints of interrupted work: one file per unit, written between two steps or epochs."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from prism_nb.core import fileio, torch_io
from prism_nb.core.config import short_hash
from prism_nb.core.device import choose_device
from prism_nb.core.manifest import environment_key
from prism_nb.core.run import Run
from prism_nb.core.units import Unit


class Checkpoint:
    """A file with the state of some work, from which it continues to the same result.

    The fingerprint is a digest of everything that the result depends on; a state that was saved
    under another is ignored. `every` is in seconds.
    """

    def __init__(self, path: Path, fingerprint: str, *, every: float = 30.0) -> None:
        self._path, self._fingerprint, self._every = path, fingerprint, every
        self._last_save = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last_save >= self._every

    def save(self, state: dict[str, Any]) -> None:
        """Write a state of tensors and plain values, such as nested `state_dict()` results."""
        content = {"fingerprint": self._fingerprint, "state": state}
        fileio.atomic_write(self._path, lambda file: torch.save(content, file))
        self._last_save = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, its tensors on the CPU; None if it is missing or damaged."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                if archive.testzip() is not None:  # torch does not verify the checksums
                    return None
            content = torch_io.load_torch_file(self._path)
        except Exception:  # a damaged archive fails in many ways
            return None
        state: dict[str, Any] = content["state"]
        return state if content["fingerprint"] == self._fingerprint else None

    def clear(self) -> None:
        """Remove the file once the work is done."""
        self._path.unlink(missing_ok=True)


def unit_checkpoint(run: Run, unit: Unit, *others: object, every: float = 30.0) -> Checkpoint:
    """Return a unit's checkpoint, keyed by settings, inputs, device, versions and plain others."""
    key = environment_key(choose_device(run.settings.device))
    fingerprint = [unit.fingerprint, run.units.inputs_hash(unit.inputs), key, *others]
    path = run.file(f"{unit.marker.removesuffix('.json')}.checkpoint")
    return Checkpoint(path, short_hash(fingerprint), every=every)
