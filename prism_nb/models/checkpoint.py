"""Where interrupted work goes on: one file, written between two of its steps or epochs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.hashing import hash_tensors
from prism_nb.models.zoo import load_weights

_KEY = "prism-nb checkpoint 2"  # the one metadata entry
_EVERY = 30.0  # seconds between two writes


class Stateful(Protocol):
    """All that decides how some work goes on."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as contiguous tensors on the CPU, by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over such a state."""


class Checkpoint:
    """Keeps the state of some work, so that what goes on from it ends with the same result.

    Args:
        path: The file.
        binding: What the work depends on; a checkpoint of other work is not gone on from.
        every: Seconds that must have passed before it is written again.
    """

    def __init__(self, path: Path, fingerprint: str, *, every: float = _EVERY) -> None:
        self._path, self._binding, self._every = path, fingerprint, every
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to write the file again."""
        return time.monotonic() - self._last >= self._every

    def maybe_save(self, work: Stateful, progress: dict[str, Any]) -> None:
        """Write the state as it is between two steps or epochs, if it is due."""
        if self.due:
            self.save(work, progress)

    def save(self, work: Stateful, progress: dict[str, Any]) -> None:
        """Write the state as it is between two steps or epochs."""
        tensors = work.state_dict()
        entry = json.dumps(self._entry(tensors, json.loads(json.dumps(progress))))
        fileio.write_bytes(self._path, safetensors.torch.save(tensors, metadata={_KEY: entry}))
        self._last = time.monotonic()

    def restore(self, work: Stateful) -> dict[str, Any] | None:
        """Put a kept state into some work and return its progress.

        Where there is none, or one that is damaged, of other work or of another version of the
        kit, the work is left as it was and None returned.
        """
        kept = self._read()
        if kept is None:
            return None
        tensors, progress = kept
        before = work.state_dict()
        try:
            work.load_state_dict(tensors)
            fits = _forms(work.state_dict()) == _forms(tensors)
        except (LookupError, RuntimeError, TypeError, ValueError):
            fits = False
        if not fits:
            work.load_state_dict(before)
        return progress if fits else None

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the file's tensors and progress, if they are this work's, as they were written."""
        try:
            with safe_open(self._path, framework="pt") as file:
                entry = json.loads((file.metadata() or {}).get(_KEY, "{}"))
                if not isinstance(entry, dict) or entry.get("fingerprint") != self._binding:
                    return None
                tensors: dict[str, Tensor] = {
                    name: file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118
                }
        except (OSError, SafetensorError, ValueError, RecursionError):
            return None
        progress: Any = entry.get("progress")
        return (tensors, progress) if entry == self._entry(tensors, progress) else None

    def _entry(self, tensors: Mapping[str, Tensor], progress: Any) -> dict[str, Any]:
        """Return what a file says of itself, with a digest of all that it holds."""
        stated = {"fingerprint": self._binding, "progress": progress}
        return {**stated, "digest": short_hash([stated, hash_tensors(tensors)])}

    def clear(self) -> None:
        """Remove the file once the work is over."""
        self._path.unlink(missing_ok=True)


class TrainerState:
    """What a training consists of between two epochs: networks, optimizer, random generators.

    Args:
        networks: The networks by name: what learns, and its averaged copy if there is one.
        optimizer: The learning network's.
        device: Where they are.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self._networks, self._optimizer, self._device = networks, optimizer, device

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors by name."""
        state = {
            f"{name}/{key}": value
            for name, network in self._networks.items()
            for key, value in network.state_dict().items()
        }
        state |= optimizer_tensors(self._optimizer)
        state["random/cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            state["random/cuda"] = torch.cuda.get_rng_state(self._device)
        return cpu_copies(state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; the current random state of torch included."""
        for name, network in self._networks.items():
            load_weights(network, strip_prefix(state, name))
        restore_optimizer(self._optimizer, state)
        torch.set_rng_state(state["random/cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state["random/cuda"], self._device)


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (value.dtype, value.shape) for name, value in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer remembers, by names under `optimizer`."""
    return {
        f"optimizer/{number}/{key}": value
        for number, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take over what an optimizer remembered, each tensor laid out as its parameter is.

    A file holds tensors row by row, and fused kernels pair elements by their place in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in strip_prefix(tensors, "optimizer").items():
        number, _, key = name.partition("/")
        like = parameters[int(number)]
        if value.shape == like.shape:
            value = torch.empty_like(like).copy_(value)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def cpu_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors as a file holds them."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries below a prefix, without it."""
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}/")
    }
