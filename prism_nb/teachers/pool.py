"""The networks of a run, loaded once per process."""

from __future__ import annotations

from functools import lru_cache

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from prism_nb.data import ImageDataset, open_dataset
from prism_nb.device import choose_device, seeded
from prism_nb.errors import PrismError
from prism_nb.plans.squeeze import network_unit
from prism_nb.run import Run
from prism_nb.teachers.networks import build_network
from prism_nb.teachers.teacher import PixelSpace, Teacher


def load_teacher(run: Run, name: str) -> Teacher:
    """Return a trained network of the run as a frozen teacher on the run's device.

    Raises:
        PrismError: The network is not trained, or its weights are damaged.
    """
    unit = network_unit(run.settings, name)
    state = run.inspect(unit)
    if state.state != "done":
        raise PrismError(
            f"teacher {name!r} of run {run.name} is {state.state}"
            f"{f' ({state.reason})' if state.reason else ''}; run the teachers stage first"
        )
    weights = unit.key["weights"]
    marker = run.marker(unit) or {"files": {weights: ""}}
    device = choose_device(run.settings.device)
    dataset = open_dataset(run.settings)
    return _load(name, str(run.file(weights)), marker["files"][weights], dataset, device)


def canonical_space(dataset: ImageDataset) -> PixelSpace:
    """Return the pixel space in which a dataset's images are optimised and stored."""
    return PixelSpace(dataset.mean, dataset.std, dataset.image_size)


@lru_cache(maxsize=32)
def _load(
    name: str, path: str, content: str, dataset: ImageDataset, device: torch.device
) -> Teacher:
    """Load weights; `content`, their hash, keeps the cache from serving an older file."""
    network = _empty(name, dataset)
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise PrismError(
            f"weights {path} do not fit {name!r}: {error}; delete the file and run the teachers "
            "stage again"
        ) from None
    space = canonical_space(dataset)
    teacher = Teacher(name, network, own=space, canonical=space)
    return teacher.to(device).to(memory_format=torch.channels_last)


def _empty(name: str, dataset: ImageDataset) -> nn.Module:
    with seeded(0, torch.device("cpu")):
        return build_network(name, classes=len(dataset.classes), image_size=dataset.image_size)
