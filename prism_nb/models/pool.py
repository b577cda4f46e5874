"""The networks of a run as frozen teachers, loaded once per process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from prism_nb.core.device import choose_device, seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import groups_unit, network_unit, statistics_unit
from prism_nb.core.units import Unit, is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.models.architectures import architecture_of
from prism_nb.models.layer_stats import MeanVar
from prism_nb.models.pretrained import build_options, native_preprocess
from prism_nb.models.teacher import PreprocessConfig, Teacher, dataset_preprocess
from prism_nb.models.zoo import BuildOptions, build_network, head_tensors, load_weights


def load_teacher(run: Run, name: str) -> Teacher:
    """Return a trained network of the run as a frozen teacher on the run's device.

    Raises:
        PrismError: The network is not trained, or its weights are damaged.
    """
    unit = network_unit(run.settings, name)
    path, content_hash = _finished_file(run, unit, "weights")
    dataset, device = open_dataset(run.settings), choose_device(run.settings.device)
    native, head, rows = dataset_preprocess(dataset), len(dataset.classes), None
    options: BuildOptions = ()
    if is_pretrained_name(name):
        record = run.units.record(unit)
        native, head = PreprocessConfig.from_dict(record["preprocess"]), record["head_classes"]
        rows = record["head_rows"] and tuple(record["head_rows"])
        options = tuple(record.get("build", {}).items())
    return _load_teacher(name, path, content_hash, dataset, native, head, rows, options, device)


def load_conv_targets(run: Run, name: str, patch: int) -> dict[str, MeanVar]:
    """Return the real data's statistics of a network's convolutions, by their names.

    `patch` is the side of the square patches, in pixels of the feature map.

    Raises:
        PrismError: The statistics are not measured, or their file is damaged.
    """
    tensors = _load_statistics(run, statistics_unit(run.settings, name, patch))
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {n: MeanVar(tensors[f"{n}/mean"], tensors[f"{n}/var"]) for n in names}


def load_groups(run: Run, method: str) -> dict[str, Tensor]:
    """Return the statistics of a method's groups: of `difficulty_groups` or `class_statistics`.

    Raises:
        PrismError: The groups are not measured, or their file is damaged.
    """
    return _load_statistics(run, groups_unit(run.settings, method))


def untrained_teacher(
    name: str, dataset: ImageDataset, device: torch.device, *, resample: bool = True
) -> Teacher:
    """Return a teacher with fresh weights, which costs as much to run as a trained one."""
    native = native_preprocess(name, dataset, resample=resample)
    network = _build(name, len(dataset.classes), native, build_options(name))
    return wrap_teacher(name, network, dataset, native, device)


def wrap_teacher(
    name: str,
    network: nn.Module,
    dataset: ImageDataset,
    native: PreprocessConfig,
    device: torch.device,
    head_rows: Sequence[int] | None = None,
) -> Teacher:
    """Return a network, trained with a native preprocessing, as a frozen teacher for a dataset."""
    teacher = Teacher(
        name, network, native=native, dataset=dataset_preprocess(dataset), head_rows=head_rows
    )
    return teacher.to(device).to(memory_format=torch.channels_last)


def _finished_file(run: Run, unit: Unit, param: str) -> tuple[Path, str]:
    """Return the file that a finished unit's parameter names, and its content hash."""
    found = run.units.state(unit)
    if found.state != "done":
        reason = f" ({found.reason})" if found.reason else ""
        raise PrismError(
            f"teacher {unit.name!r} of run {run.name} is {found.state}{reason}; run the squeeze "
            "stage first"
        )
    file, marker = unit.params[param], run.units.marker(unit)
    return run.file(file), marker["files"][file] if marker else ""


@lru_cache(maxsize=32)
def _load_teacher(
    name: str,
    path: Path,
    content_hash: str,  # part of the cache's key, so that a changed file is read again
    dataset: ImageDataset,
    native: PreprocessConfig,
    head: int,  # number of classes; 0: the file has none
    rows: tuple[int, ...] | None,
    options: BuildOptions,
    device: torch.device,
) -> Teacher:
    network = _build(name, head or len(dataset.classes), native, options)
    optional: tuple[str, ...] = ()
    if not head:
        optional = head_tensors(architecture_of(name), image_size=native.size, options=options)
    try:
        load_weights(network, safetensors.torch.load_file(path), optional=optional)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise PrismError(
            f"weights {path} do not fit {name!r}: {error}; delete the file and run the squeeze "
            "stage again"
        ) from None
    return wrap_teacher(name, network, dataset, native, device, rows)


def _load_statistics(run: Run, unit: Unit) -> dict[str, Tensor]:
    return _load_file(*_finished_file(run, unit, "statistics"), choose_device(run.settings.device))


@lru_cache(maxsize=32)
def _load_file(path: Path, content_hash: str, device: torch.device) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise PrismError(
            f"statistics {path} cannot be read: {error}; run the squeeze stage again"
        ) from None


def _build(name: str, classes: int, native: PreprocessConfig, options: BuildOptions) -> nn.Module:
    with seeded(0, torch.device("cpu")):
        return build_network(
            architecture_of(name), classes=classes, image_size=native.size, options=options
        )
