"""Where an interrupted training goes on: one file, written between epochs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from prism_nb import files

_KEY = "checkpoint"  # the one metadata entry
_EVERY = 30.0  # seconds between two writes


class Checkpoint:
    """Keeps the state of a training, so that what goes on from it ends with the same result.

    Args:
        path: The file.
        binding: What the training depends on; a checkpoint of another is not gone on from.
        every: Seconds that must have passed before it is written again.
    """

    def __init__(self, path: Path, binding: str, *, every: float = _EVERY) -> None:
        self._path, self._binding, self._every = path, binding, every
        self._last = time.monotonic()

    def offer(self, training: Training, progress: dict[str, Any]) -> None:
        """Write the state between two epochs, if it is time to."""
        if time.monotonic() - self._last < self._every:
            return
        entry = json.dumps({"binding": self._binding, "progress": progress})
        content = safetensors.torch.save(training.tensors(), metadata={_KEY: entry})
        files.write_bytes(self._path, content)
        self._last = time.monotonic()

    def restore(self, training: Training) -> dict[str, Any] | None:
        """Put a kept state into a training and return its progress; None where there is none."""
        try:
            with safe_open(self._path, framework="pt") as file:
                entry = json.loads((file.metadata() or {}).get(_KEY, "{}"))
                if entry.get("binding") != self._binding:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None  # nothing there, or torn: the training begins anew
        training.restore(tensors)
        progress: dict[str, Any] = entry["progress"]
        return progress

    def clear(self) -> None:
        """Remove the file once the training is over."""
        self._path.unlink(missing_ok=True)


class Training:
    """What a training consists of between two epochs: networks, optimiser, random generators.

    Args:
        networks: The networks by name: what learns, and its averaged copy if there is one.
        optimiser: The learning network's.
        device: Where they are.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self._networks, self._optimiser, self._device = networks, optimiser, device

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors by name."""
        state = {
            f"{name}/{key}": value
            for name, network in self._networks.items()
            for key, value in network.state_dict().items()
        }
        for number, values in self._optimiser.state_dict()["state"].items():
            state |= {f"optimiser/{number}/{key}": value for key, value in values.items()}
        state["random/cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            state["random/cuda"] = torch.cuda.get_rng_state(self._device)
        return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state; the current random state of torch included."""
        for name, network in self._networks.items():
            network.load_state_dict(_under(tensors, name))
        self._restore_optimiser(_under(tensors, "optimiser"))
        torch.set_rng_state(tensors["random/cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self._device)

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over an optimiser's state, each tensor laid out in memory as its parameter is.

        A file holds tensors row by row, and fused kernels pair elements by their place in memory.
        """
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, key = name.partition("/")
            like = parameters[int(number)]
            if value.shape == like.shape:
                value = torch.empty_like(like).copy_(value)
            state.setdefault(int(number), {})[key] = value
        whole = self._optimiser.state_dict()
        self._optimiser.load_state_dict({**whole, "state": state})


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries below a prefix, without it."""
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}/")
    }
