"""The work of the squeeze: train and measure networks, or take them from an equal run."""

from __future__ import annotations

import glob
import time
from dataclasses import asdict
from typing import Any

import timm
import torch

from prism_nb import files
from prism_nb.backends import OnEvent
from prism_nb.config import digest
from prism_nb.data import open_dataset
from prism_nb.device import choose_device
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.teachers.accuracy import accuracy
from prism_nb.teachers.checkpoints import serialise, sha256_of
from prism_nb.teachers.inspection import inspect_network
from prism_nb.teachers.pool import canonical_space, load_teacher
from prism_nb.teachers.sidecar import sidecar_path
from prism_nb.teachers.sources import find_source
from prism_nb.teachers.squeeze import mean_statistics, train_network
from prism_nb.teachers.squeeze_plan import squeeze_plan
from prism_nb.teachers.statistics import conv_probes
from prism_nb.teachers.taking import find_weights, note_of, take_network
from prism_nb.training.checkpoint import Checkpoint
from prism_nb.units import Unit, has_weights


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Provide the weights of one network, or the statistics of its convolutions."""
    made_file = unit.key["statistics" if "patch" in unit.key else "weights"]
    if _is_given(unit):
        find_weights(unit.key["network"], may_fetch=run.settings.fetch_weights)
    donor = _find_donor(run, unit)
    if donor is not None:
        files.write_bytes(run.file(made_file), donor.file(made_file).read_bytes())
        record = {**donor.record(unit), "reused_from": donor.name}
    else:
        start = time.monotonic()
        content, facts = _make(run, unit, on_event)
        files.write_bytes(run.file(made_file), content)
        seconds = round(time.monotonic() - start, 3)
        record = {
            **facts,
            "seconds": seconds,
            **_circumstances(run.settings, unit),
            "reused_from": None,
        }
    run.finish(unit, paths=[made_file], record=record)
    _checkpoint(run, unit).clear()


def _is_given(unit: Unit) -> bool:
    """Return whether a unit takes weights from elsewhere instead of making something."""
    return "patch" not in unit.key and has_weights(unit.key["network"])


def _make(run: Run, unit: Unit, on_event: OnEvent) -> tuple[bytes, dict[str, Any]]:
    if "patch" in unit.key:
        return _measure(run, unit)
    if not _is_given(unit):
        return _train(run, unit, on_event)
    device = choose_device(run.settings.device)
    return take_network(unit.key["network"], open_dataset(run.settings), device)


def _train(run: Run, unit: Unit, on_event: OnEvent) -> tuple[bytes, dict[str, Any]]:
    settings, name = run.settings, unit.key["network"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    network = train_network(
        name,
        dataset,
        squeeze_plan(settings, name),
        device,
        lambda values: on_event({"event": "step", "unit": unit.name, **values}),
        _checkpoint(run, unit),
    )
    facts = inspect_network(name, network, image_size=dataset.image_size)
    accurate = accuracy(network, dataset, "val", device)
    content = serialise(network.state_dict(), note_of(dataset, canonical_space(dataset)))
    return content, {**asdict(facts), "accuracy": accurate}


def _measure(run: Run, unit: Unit) -> tuple[bytes, dict[str, Any]]:
    settings, name = run.settings, unit.key["network"]
    teacher = load_teacher(run, name)
    statistics = mean_statistics(
        teacher,
        conv_probes(teacher.network, unit.key["patch"]),
        open_dataset(settings),
        squeeze_plan(settings, name),
        choose_device(settings.device),
    )
    tensors = {
        f"{name}/{part}": value
        for name, measured in statistics.items()
        for part, value in measured._asdict().items()
    }
    return serialise(tensors), {"probes": len(statistics)}


def _checkpoint(run: Run, unit: Unit) -> Checkpoint:
    """Return where the training of a unit's network stands; equal circumstances go on from it."""
    source = digest([unit.binding, _circumstances(run.settings, unit)])
    return Checkpoint(run.file(f"{unit.marker.removesuffix('.json')}.checkpoint"), source)


def _circumstances(settings: Settings, unit: Unit) -> dict[str, object]:
    """What may change weights beside the settings."""
    return {
        **(_given_files(unit.key["network"]) if _is_given(unit) else {}),
        "device": choose_device(settings.device).type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }


def _given_files(network: str) -> dict[str, str | None]:
    """Return the hashes of a network's weights, and of what stands beside a file of one's own."""
    source = find_source(network)
    found = {"weights_sha256": sha256_of(source.file)}
    if source.library != "file":
        return {**found}
    beside = sidecar_path(source.file)
    return {**found, "sidecar_sha256": sha256_of(beside) if beside.is_file() else None}


def _find_donor(run: Run, unit: Unit) -> Run | None:
    """Return a sibling run that has made this very file in this very way."""
    made_here, made_from = _circumstances(run.settings, unit), run.content(unit.inputs)
    for marker in sorted(run.path.parent.glob(f"*/{glob.escape(unit.marker)}")):
        sibling = Run(marker.parents[2], run.settings)
        if sibling.path == run.path or sibling.inspect(unit).state != "done":
            continue
        record = sibling.record(unit)
        same_way = {key: record.get(key) for key in made_here} == made_here
        if same_way and sibling.content(unit.inputs) == made_from:
            return sibling
    return None
