"""The work of the squeeze: train and measure networks, or take them from an equal run."""

from __future__ import annotations

import glob
import time
from dataclasses import asdict
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

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
    made_file = unit.key["statistics" if "patch" in unit.key else "weights"]
    donor = _find_donor(run, unit)
    if donor is not None:
        files.write_bytes(run.file(made_file), donor.file(made_file).read_bytes())
        record = {**donor.record(unit), "reused_from": donor.name}
    else:
        start = time.monotonic()
        content, facts = _measure(run, unit) if "patch" in unit.key else _train(run, unit, on_event)
        files.write_bytes(run.file(made_file), content)
        seconds = round(time.monotonic() - start, 3)
        record = {
            **facts,
            "seconds": seconds,
            **_circumstances(run.settings),
            "reused_from": None,
        }
    run.finish(unit, paths=[made_file], record=record)


def squeeze_plan(settings: Settings, name: str) -> SqueezePlan:
    """Return how a run trains one of its networks."""
    return SqueezePlan(
        epochs=settings.squeeze_epochs,
        batch=settings.squeeze_batch,
        lr=settings.squeeze_lr,
        shift=settings.squeeze_shift,
        seed=unit_seed(settings.seed, "squeeze", name),
    )


def _train(run: Run, unit: Unit, on_event: OnEvent) -> tuple[bytes, dict[str, Any]]:
    settings, name = run.settings, unit.key["network"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    network = train_network(
        name,
        dataset,
        squeeze_plan(settings, name),
        device,
        lambda values: on_event({"event": "step", "unit": unit.name, **values}),
    )
    facts = inspect_network(name, network, image_size=dataset.image_size)
    accurate = accuracy(network, dataset, "val", device)
    return _serialise(network.state_dict()), {**asdict(facts), "accuracy": accurate}


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
    return _serialise(tensors), {"probes": len(statistics)}


def _circumstances(settings: Settings) -> dict[str, object]:
    """What may change trained weights beside the settings."""
    return {
        "device": choose_device(settings.device).type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }


def _serialise(tensors: dict[str, Tensor]) -> bytes:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(plain)


def _find_donor(run: Run, unit: Unit) -> Run | None:
    """Return a sibling run that has made this very file in this very way."""
    made_here, made_from = _circumstances(run.settings), run.content(unit.inputs)
    for marker in sorted(run.path.parent.glob(f"*/{glob.escape(unit.marker)}")):
        sibling = Run(marker.parents[2], run.settings)
        if sibling.path == run.path or sibling.inspect(unit).state != "done":
            continue
        record = sibling.record(unit)
        same_way = {key: record.get(key) for key in made_here} == made_here
        if same_way and sibling.content(unit.inputs) == made_from:
            return sibling
    return None
