"""The work of the squeeze: train a network, or take it from a run of the same settings."""

from __future__ import annotations

import time
from dataclasses import asdict

import safetensors.torch
import timm
import torch
from torch import nn

from prism_nb import files
from prism_nb.backends import OnEvent
from prism_nb.config import Settings
from prism_nb.data import open_dataset
from prism_nb.device import choose_device
from prism_nb.run import Run
from prism_nb.teachers.accuracy import accuracy
from prism_nb.teachers.inspection import inspect_network
from prism_nb.teachers.pool import load_teacher
from prism_nb.teachers.squeeze import SqueezePlan, mean_statistics, train_network
from prism_nb.teachers.statistics import conv_probes
from prism_nb.units import Unit, unit_seed


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Provide the weights of one network, or the statistics of its convolutions."""
    if "patch" in unit.key:
        _measure_convolutions(run, unit)
    else:
        _provide_weights(run, unit, on_event)


def _provide_weights(run: Run, unit: Unit, on_event: OnEvent) -> None:
    weights = unit.key["weights"]
    donor = _find_donor(run, unit)
    if donor is not None:
        files.write_bytes(run.file(weights), donor.file(weights).read_bytes())
        record = {**donor.record(unit), "reused_from": donor.name}
    else:
        record = _train(run, unit, on_event)
    run.finish(unit, paths=[weights], record=record)


def squeeze_plan(settings: Settings, name: str) -> SqueezePlan:
    """Return how a run trains one of its networks."""
    return SqueezePlan(
        epochs=settings.squeeze_epochs,
        batch=settings.squeeze_batch,
        lr=settings.squeeze_lr,
        shift=settings.squeeze_shift,
        seed=unit_seed(settings.seed, "squeeze", name),
    )


def _train(run: Run, unit: Unit, on_event: OnEvent) -> dict[str, object]:
    settings, name = run.settings, unit.key["network"]
    device = choose_device(settings.device)
    dataset = open_dataset(settings)
    start = time.monotonic()
    network = train_network(
        name,
        dataset,
        squeeze_plan(settings, name),
        device,
        lambda values: on_event({"event": "step", "unit": unit.name, **values}),
    )
    files.write_bytes(run.file(unit.key["weights"]), _serialise(network))
    facts = inspect_network(name, network, image_size=dataset.image_size)
    return {
        **asdict(facts),
        "accuracy": accuracy(network, dataset, "val", device),
        "seconds": round(time.monotonic() - start, 3),
        **_circumstances(settings),
        "reused_from": None,
    }


def _measure_convolutions(run: Run, unit: Unit) -> None:
    settings, start = run.settings, time.monotonic()
    teacher = load_teacher(run, unit.key["network"])
    statistics = mean_statistics(
        teacher,
        conv_probes(teacher.network, unit.key["patch"]),
        open_dataset(settings),
        squeeze_plan(settings, unit.key["network"]),
        choose_device(settings.device),
    )
    tensors = {
        f"{name}/{part}": value.cpu().contiguous()
        for name, measured in statistics.items()
        for part, value in measured._asdict().items()
    }
    files.write_bytes(run.file(unit.key["statistics"]), safetensors.torch.save(tensors))
    record = {"seconds": round(time.monotonic() - start, 3), "probes": len(statistics)}
    run.finish(unit, paths=[unit.key["statistics"]], record=record)


def _circumstances(settings: Settings) -> dict[str, object]:
    """What may change trained weights beside the settings."""
    return {
        "device": choose_device(settings.device).type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }


def _serialise(network: nn.Module) -> bytes:
    state = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    return safetensors.torch.save(state)


def _find_donor(run: Run, unit: Unit) -> Run | None:
    """Return a sibling run that has trained this very network in this very way."""
    made_here = _circumstances(run.settings)
    for marker in sorted(run.path.parent.glob(f"*/{unit.marker}")):
        sibling = Run(marker.parents[2], run.settings)
        if sibling.path == run.path or sibling.inspect(unit).state != "done":
            continue
        record = sibling.record(unit)
        if {key: record.get(key) for key in made_here} == made_here:
            return sibling
    return None
