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
from prism_nb.core.device import choose_device, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.manifest import environment_key
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_units
from prism_nb.core.units import OnEvent, Unit, is_pretrained_name, unit_seed
from prism_nb.data.registry import open_dataset
from prism_nb.models.bn_distance import (
    IMAGES,
    bn_distance,
    check_stem,
    distance_limits,
    spaced_images,
)
from prism_nb.models.checkpoint import Checkpoint, unit_checkpoint
from prism_nb.models.difficulty import class_statistics, difficulty_groups
from prism_nb.models.forgetting import ForgettingCounter
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.metrics import best_order, predict
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import native_preprocess, open_pretrained
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.train import collect_conv_stats, train_network
from prism_nb.models.weights import check_weights_present, download_weights, resolve_weights
from prism_nb.models.weights_file import metadata_path, to_safetensors, weights_metadata
from prism_nb.models.zoo import network_info

Result = tuple[bytes, dict[str, Any]]  # content of the unit's file, and its record


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Write the weights of one network, or statistics of the real images.

    An equal unit of another run in the same folder is copied instead of computed again.
    """
    file = unit.params["weights" if "weights" in unit.params else "statistics"]
    if _is_pretrained(unit):
        spec = resolve_weights(unit.params["network"])
        if run.settings.fetch_weights and spec.library != "file" and not spec.file.is_file():
            download_weights(spec)
        check_weights_present([spec.name])
    donor = find_reusable_run(run, unit)
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
    if _is_pretrained(unit):
        _warn_of_pixels(run)


def find_reusable_run(run: Run, unit: Unit) -> Run | None:
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


def check_class_order(name: str, predicted: np.ndarray, labels: np.ndarray, classes: int) -> bool:
    """Check on held-out images that the outputs of a head are in the order of the classes.

    `predicted` is the network's top-1 output of each image, `labels` its class, int64 [n] each.

    Returns:
        Whether the accuracy is above that of guessing; if not, a warning is given.
    """
    right = int((predicted == labels).sum())
    best, output_of = best_order(predicted, labels, classes)
    # With fewer images, the best of all orders fits guesses too.
    if len(labels) >= 10 * classes and best > max(2 * right, len(labels) / 2):
        first = int(np.argmax(output_of != np.arange(classes)))
        raise PrismError(
            f"network {name!r} classifies {right} of {len(labels)} held-out images correctly, but "
            f"{best} in another order of its outputs, where class {first} is output "
            f"{output_of[first]}: compare classes.json with the classes of the weights"
        )
    # Untrained networks put similar images in one class, so they may do better than guessing, but
    # not five times as well, or halfway to 1.
    chance = 1 / classes
    is_confirmed = right > len(labels) * min(5 * chance, (1 + chance) / 2)
    if not is_confirmed:
        warnings.warn(
            f"network {name!r} classifies {right} of {len(labels)} held-out images correctly, as "
            "guessing might: whether its head has the dataset's classes in their order is not "
            "known; make sure of it before a long run",
            stacklevel=2,
        )
    return is_confirmed


def _is_pretrained(unit: Unit) -> bool:
    return "weights" in unit.params and is_pretrained_name(unit.params["network"])


def _compute(run: Run, unit: Unit, on_event: OnEvent) -> Result:
    if "patch" in unit.params:
        return _conv_stats(run, unit)
    if "networks" in unit.params:
        return _group_stats(run, unit)
    if _is_pretrained(unit):
        return _import_pretrained(run, unit.params["network"])
    return _train(run, unit, on_event)


def _import_pretrained(run: Run, name: str) -> Result:
    settings, device = run.settings, choose_device(run.settings.device)
    dataset, gives_logits = open_dataset(settings), name not in settings.bn_only
    found = open_pretrained(name, dataset, resample=settings.resample, gives_logits=gives_logits)
    info = network_info(name, found.network, image_size=found.preprocess.size)
    trained = native_preprocess(name, dataset)  # of the weights, whatever this run gives them
    metadata = weights_metadata(found.classes, trained, found.spec.build)
    content = to_safetensors(found.tensors, metadata)
    right = is_checked = distance = None
    if dataset.has_images:
        teacher = wrap_teacher(
            name, found.network, dataset, found.preprocess, device, found.head_rows
        )
        images = spaced_images(dataset, IMAGES).to(device)
        distance = bn_distance(teacher, images)
        if found.spec.library == "file":
            check_stem(teacher, distance, images)
    if dataset.has_images and gives_logits:
        predicted, labels = predict(teacher, dataset, "val", device), dataset.labels("val")
        right = float((predicted == labels).mean())
        is_checked = check_class_order(name, predicted, labels, len(dataset.classes))
    record = {
        **asdict(info),
        "weights": found.spec.tag,
        "weights_file": found.spec.file.name,
        "weights_part": found.spec.part or None,
        "build": dict(found.spec.build),
        "licence": found.spec.licence,
        "head_classes": len(found.classes),
        "head_rows": found.head_rows,
        "published_accuracy": found.spec.accuracy,
        "preprocess": asdict(found.preprocess),
        "accuracy": right,
        "order_checked": is_checked,
        "bn_distance": distance,
    }
    return content, record


def _warn_of_pixels(run: Run) -> None:
    """Warn of weights that real images do not fit, once all networks with weights are here."""
    units = [unit for unit in network_units(run.settings) if _is_pretrained(unit)]
    if any(run.units.marker(unit) is None for unit in units):
        return
    records = {unit.name: run.units.record(unit) for unit in units}
    distances = {name: record.get("bn_distance") for name, record in records.items()}
    known = {name: value for name, value in distances.items() if value is not None}
    for name, limit in distance_limits(known).items():
        preprocess = records[name]["preprocess"]
        warnings.warn(
            f"network {name!r}: the BN statistics of real images are {known[name]:.3f} away from "
            f"those of its weights, above the limit of {limit:.3f}: its mean {preprocess['mean']}, "
            f"std {preprocess['std']} or build arguments {records[name].get('build', {})} may be "
            "wrong (correct them in its metadata), or the images are unlike those that it was "
            "trained on",
            stacklevel=3,
        )


def _train(run: Run, unit: Unit, on_event: OnEvent) -> Result:
    settings, name = run.settings, unit.params["network"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    forgetting = ForgettingCounter(len(dataset.labels("train")))
    network = train_network(
        name,
        dataset,
        settings.squeeze,
        device,
        lambda progress: on_event({"event": "step", "unit": unit.name, **progress}),
        _checkpoint(run, unit),
        seed=unit_seed(settings.seed, "squeeze", name),
        forgetting=forgetting,
    )
    info = network_info(name, network, image_size=dataset.image_size)
    folders = tuple(info.folder for info in dataset.classes)
    metadata = weights_metadata(folders, dataset_preprocess(dataset))
    content = to_safetensors(network.state_dict(), metadata)
    right = (predict(network, dataset, "val", device) == dataset.labels("val")).mean()
    return content, {**asdict(info), "accuracy": float(right), "forgetting": forgetting.record()}


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


def _group_stats(run: Run, unit: Unit) -> Result:
    dataset, device = open_dataset(run.settings), choose_device(run.settings.device)
    teachers = [load_teacher(run, name) for name in unit.params["networks"]]
    with tf32_mode("fp32", device):
        if unit.params["groups"]:
            tensors = difficulty_groups(teachers, dataset, unit.params["groups"], device)
        else:
            tensors = class_statistics(teachers, dataset, device)
    return to_safetensors(tensors), {"groups": unit.params["groups"] or len(dataset.classes)}


def _checkpoint(run: Run, unit: Unit) -> Checkpoint:
    return unit_checkpoint(run, unit, torch.get_num_threads())


def _environment(settings: Settings, unit: Unit) -> dict[str, object]:
    """Return what may change a unit's result besides the settings."""
    environment: dict[str, object] = {
        **environment_key(choose_device(settings.device)),
        "threads": torch.get_num_threads(),
    }
    if _is_pretrained(unit):
        spec = resolve_weights(unit.params["network"])
        environment["weights_sha256"] = fileio.sha256(spec.file)
        if spec.library == "file":
            environment["metadata_sha256"] = fileio.sha256(metadata_path(spec.file))
    return environment
