"""The squeeze stage: trained or imported networks, and their convolutions' statistics."""

from __future__ import annotations

import glob
import time
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.device import choose_device
from prism_nb.core.errors import PrismError
from prism_nb.core.manifest import environment_key
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit, is_pretrained_name, unit_seed
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.metrics import accuracy, accuracy_score, predict
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.train import collect_conv_stats, train_network
from prism_nb.models.weights import (
    check_weights_present,
    download_weights,
    metadata_path,
    resolve_weights,
    sha256_of,
    to_safetensors,
    weights_metadata,
)
from prism_nb.models.zoo import network_info

Result = tuple[bytes, dict[str, Any]]  # content of the unit's file, and its record


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Write the weights of one network, or the statistics of its convolutions.

    An equal unit of another run in the same folder is copied instead of computed again.
    """
    file = unit.params["statistics" if "patch" in unit.params else "weights"]
    if _is_pretrained(unit):
        ensure_weights(unit.params["network"], may_fetch=run.settings.fetch_weights)
    donor = _find_reusable_run(run, unit)
    if donor is not None:
        content = donor.file(file).read_bytes()
        record = {**donor.units.record(unit), "reused_from": donor.name}
    else:
        start = time.monotonic()
        content, record = _compute(run, unit, on_event)
        record |= {"seconds": round(time.monotonic() - start, 3), "reused_from": None}
        record |= _environment(run.settings, unit)
    fileio.write_bytes(run.file(file), content)
    run.units.finish(unit, paths=[file], record=record)
    _checkpoint(run, unit).clear()


def ensure_weights(name: str, *, may_fetch: bool) -> None:
    """Check that a network's weights exist, after downloading them if that is allowed.

    Raises:
        UsageError: The weights do not exist, and may not or cannot be downloaded.
    """
    spec = resolve_weights(name)
    if may_fetch and not spec.file.is_file():
        download_weights(spec)
    check_weights_present([name])


def import_pretrained(name: str, dataset: ImageDataset, device: torch.device) -> Result:
    """Return a network's weights, cut to a dataset's classes, and what held-out images confirm.

    Args:
        name: A network whose weights exist.
        dataset: The images to classify.
        device: Device to measure the accuracy on.

    Raises:
        PrismError: The weights do not fit, or the head's classes are in another order.
    """
    found = open_pretrained(name, dataset)
    info = network_info(name, found.network, image_size=found.preprocess.size)
    content = to_safetensors(
        found.network.state_dict(), weights_metadata(dataset, found.preprocess)
    )
    teacher = wrap_teacher(name, found.network, dataset, found.preprocess, device)
    predicted, labels = predict(teacher, dataset, "val", device), dataset.labels("val")
    classes = len(dataset.classes)
    if found.head > classes:
        warnings.warn(
            f"network {name!r}: of the {found.head} classes of its head, the {classes} of the "
            "dataset are kept",
            stacklevel=2,
        )
    record = {
        **asdict(info),
        **found.facts(),
        "accuracy": accuracy_score(predicted, labels),
        "order_checked": check_class_order(name, predicted, labels, classes=classes),
    }
    return content, record


def check_class_order(
    name: str, predicted: np.ndarray, labels: np.ndarray, *, classes: int
) -> bool:
    """Check that the outputs of a head are in the order of the dataset's classes.

    The head's top-1 accuracy on held-out images is compared with chance, and with its accuracy if
    its outputs were in one of the orders that programs write by mistake. Any other wrong order
    lowers the accuracy: one of all classes is not confirmed, one of a few classes is not found.

    Args:
        name: The network's name.
        predicted: Its top-1 class of each image, int64 [n].
        labels: The true classes, int64 [n].
        classes: Number of classes.

    Returns:
        Whether the order is confirmed; if not, a warning is given.

    Raises:
        PrismError: The accuracy is higher in another order.
    """
    right, count, chance = int((predicted == labels).sum()), len(labels), 1 / classes
    # Untrained networks put similar images in one class, so they may do better than guessing. An
    # accuracy of five times chance, or halfway to 1, is none of theirs; four standard deviations
    # are for few images.
    few = count * chance + 4 * (count * chance * (1 - chance)) ** 0.5
    needed = max(few, count * min(5 * chance, (1 + chance) / 2))
    right_if = {
        order: int((class_of_output[predicted] == labels).sum())
        for order, class_of_output in _mistaken_orders(classes).items()
    }
    best = max(right_if, key=right_if.__getitem__)
    if right_if[best] > max(right, needed):
        raise PrismError(
            f"network {name!r} classifies {right} of {count} held-out images correctly, but "
            f"{right_if[best]} if the classes of its head are {best}: the class order of its head "
            "is not the dataset's; compare classes.json with the classes of the weights"
        )
    if right <= needed:
        warnings.warn(
            f"network {name!r} classifies {right} of {count} held-out images correctly, as "
            "guessing might: whether its head has the dataset's classes in their order is not "
            "known; make sure of it before a long run",
            stacklevel=2,
        )
    return right > needed


def _mistaken_orders(classes: int) -> dict[str, np.ndarray]:
    """Return for each mistaken order the class of each output of a head, int64 [classes]."""
    indices = np.arange(classes)
    as_text = np.array(sorted(range(classes), key=str))  # 0, 1, 10, 100, ..., 11, ...
    return {
        "reversed": indices[::-1],
        "sorted as text": as_text,
        "numbered by sorting as text": np.argsort(as_text),
        "shifted by one": np.roll(indices, -1),
        "shifted by one the other way": np.roll(indices, 1),
    }


def _is_pretrained(unit: Unit) -> bool:
    return "patch" not in unit.params and is_pretrained_name(unit.params["network"])


def _compute(run: Run, unit: Unit, on_event: OnEvent) -> Result:
    if "patch" in unit.params:
        return _conv_stats(run, unit)
    if _is_pretrained(unit):
        device = choose_device(run.settings.device)
        return import_pretrained(unit.params["network"], open_dataset(run.settings), device)
    return _train(run, unit, on_event)


def _train(run: Run, unit: Unit, on_event: OnEvent) -> Result:
    settings, name = run.settings, unit.params["network"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    network = train_network(
        name,
        dataset,
        settings.squeeze,
        device,
        lambda progress: on_event({"event": "step", "unit": unit.name, **progress}),
        _checkpoint(run, unit),
        seed=unit_seed(settings.seed, "squeeze", name),
    )
    info = network_info(name, network, image_size=dataset.image_size)
    metadata = weights_metadata(dataset, dataset_preprocess(dataset))
    content = to_safetensors(network.state_dict(), metadata)
    return content, {**asdict(info), "accuracy": accuracy(network, dataset, "val", device)}


def _conv_stats(run: Run, unit: Unit) -> Result:
    settings, name = run.settings, unit.params["network"]
    teacher = load_teacher(run, name)
    measured = collect_conv_stats(
        teacher,
        conv_layer_stats(teacher.network, unit.params["patch"]),
        open_dataset(settings),
        settings.squeeze,
        choose_device(settings.device),
        seed=unit_seed(settings.seed, "squeeze", name),
    )
    tensors = {
        f"{name}/{part}": value
        for name, mean_var in measured.items()
        for part, value in mean_var._asdict().items()
    }
    return to_safetensors(tensors), {"layer_stats": len(measured)}


def _checkpoint(run: Run, unit: Unit) -> Checkpoint:
    fingerprint = short_hash([unit.fingerprint, _environment(run.settings, unit)])
    return Checkpoint(run.file(f"{unit.marker.removesuffix('.json')}.checkpoint"), fingerprint)


def _environment(settings: Settings, unit: Unit) -> dict[str, object]:
    """Return what may change a unit's result besides the settings."""
    environment: dict[str, object] = {
        **environment_key(choose_device(settings.device)),
        "threads": torch.get_num_threads(),
    }
    if _is_pretrained(unit):
        spec = resolve_weights(unit.params["network"])
        environment["weights_sha256"] = sha256_of(spec.file)
        metadata_file = metadata_path(spec.file)
        if spec.library == "file":
            environment["metadata_sha256"] = fileio.sha256(metadata_file)
    return environment


def _find_reusable_run(run: Run, unit: Unit) -> Run | None:
    """Return another run in the same folder that has finished the same unit from equal inputs."""
    environment, inputs_hash = _environment(run.settings, unit), run.units.inputs_hash(unit.inputs)
    for marker in sorted(run.path.parent.glob(f"*/{glob.escape(unit.marker)}")):
        other = Run(marker.parents[2], run.settings)
        if other.path == run.path or not other.units.is_done(unit):
            continue
        record = other.units.record(unit)
        is_same = all(record.get(key) == value for key, value in environment.items())
        if is_same and other.units.inputs_hash(unit.inputs) == inputs_hash:
            return other
    return None
