"""The networks of a run, loaded once per process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from prism_nb.core.device import choose_device, seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit, statistics_unit
from prism_nb.core.units import Unit, is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.models.layer_stats import MeanVar
from prism_nb.models.pretrained import native_preprocess
from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.models.weights import preprocess_from_dict
from prism_nb.models.zoo import architecture_of, build_network, load_weights


def load_teacher(run: Run, name: str) -> Teacher:
    """Return a trained network of the run as a frozen teacher on the run's device.

    Raises:
        PrismError: The network is not trained, or its weights are damaged.
    """
    unit = network_unit(run.settings, name)
    path, content = _made(run, unit, "weights")
    dataset, device = open_dataset(run.settings), choose_device(run.settings.device)
    own = (
        preprocess_from_dict(run.record(unit)["space"])
        if is_pretrained_name(name)
        else dataset_preprocess(dataset)
    )
    return _load(name, str(path), content, dataset, own, device)


def load_conv_targets(run: Run, name: str, patch: int) -> dict[str, MeanVar]:
    """Return the real data's statistics of a network's convolutions, by `conv_probes`' names.

    Raises:
        PrismError: They are not measured, or their file is damaged.
    """
    path, content = _made(run, statistics_unit(run.settings, name, patch), "statistics")
    return _load_statistics(str(path), content, choose_device(run.settings.device))


def _made(run: Run, unit: Unit, file: str) -> tuple[Path, str]:
    """Return the file of a finished unit and its hash."""
    state = run.inspect(unit)
    if state.state != "done":
        raise PrismError(
            f"teacher {unit.name!r} of run {run.name} is {state.state}"
            f"{f' ({state.reason})' if state.reason else ''}; run the teachers stage first"
        )
    marker = run.marker(unit) or {"files": {unit.params[file]: ""}}
    return run.file(unit.params[file]), marker["files"][unit.params[file]]


@lru_cache(maxsize=32)
def _load_statistics(path: str, content: str, device: torch.device) -> dict[str, MeanVar]:
    """Read statistics; `content`, their hash, keeps the cache from serving an older file."""
    try:
        tensors = safetensors.torch.load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise PrismError(
            f"statistics {path} cannot be read: {error}; run the teachers stage again"
        ) from None
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {n: MeanVar(tensors[f"{n}/mean"], tensors[f"{n}/var"]) for n in names}


def dataset_preprocess(dataset: ImageDataset) -> PreprocessConfig:
    """Return the pixel space in which a dataset's images are optimised and stored."""
    return PreprocessConfig(dataset.mean, dataset.std, dataset.image_size)


def untrained_teacher(name: str, dataset: ImageDataset, device: torch.device) -> Teacher:
    """Return a network with fresh weights, which costs what a trained one costs."""
    own = (
        native_preprocess(name, dataset)
        if is_pretrained_name(name)
        else dataset_preprocess(dataset)
    )
    return wrap_teacher(name, _empty(name, dataset, own), dataset, own, device)


def wrap_teacher(
    name: str,
    network: nn.Module,
    dataset: ImageDataset,
    own: PreprocessConfig,
    device: torch.device,
) -> Teacher:
    """Return a network as a teacher that is given a dataset's canonical images."""
    teacher = Teacher(name, network, own=own, canonical=dataset_preprocess(dataset))
    return teacher.to(device).to(memory_format=torch.channels_last)


@lru_cache(maxsize=32)
def _load(
    name: str,
    path: str,
    content: str,
    dataset: ImageDataset,
    own: PreprocessConfig,
    device: torch.device,
) -> Teacher:
    """Load weights; `content`, their hash, keeps the cache from serving an older file."""
    network = _empty(name, dataset, own)
    try:
        load_weights(network, safetensors.torch.load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise PrismError(
            f"weights {path} do not fit {name!r}: {error}; delete the file and run the teachers "
            "stage again"
        ) from None
    return wrap_teacher(name, network, dataset, own, device)


def _empty(name: str, dataset: ImageDataset, own: PreprocessConfig) -> nn.Module:
    with seeded(0, torch.device("cpu")):
        return build_network(
            architecture_of(name), classes=len(dataset.classes), image_size=own.size
        )
