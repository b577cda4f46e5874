"""What a network of a run will cost until it can be used, from a few real steps on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from prism_nb.data import open_dataset
from prism_nb.device import choose_device, matrix_precision, median_seconds, seeded, timed_images
from prism_nb.run import Run
from prism_nb.teachers.networks import architecture_of, build_network
from prism_nb.teachers.pool import fresh_teacher
from prism_nb.teachers.squeeze import optimise
from prism_nb.teachers.squeeze_plan import squeeze_plan
from prism_nb.units import Unit, has_weights

_STEPS = 3  # timed together, at most
_MOST = 64  # images that are judged in one go


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take.

    Weights from elsewhere cost a pass over the held-out images, and statistics of convolutions
    one over the training images.
    """
    known: dict[tuple[str, bool], float] = {}
    for unit in units:
        name, passes = unit.key["network"], _only_passes(unit)
        if (name, passes) not in known:
            known[name, passes] = (judging_seconds if passes else _epoch_seconds)(run, name)
    return [known[u.key["network"], _only_passes(u)] * _times(run, u) for u in units]


def judging_seconds(run: Run, name: str) -> float:
    """Return the seconds that a frozen network takes for one image."""
    dataset, device = open_dataset(run.settings), choose_device(run.settings.device)
    teacher, size = fresh_teacher(name, dataset, device), dataset.image_size
    images = torch.zeros(timed_images(device, _MOST, size=size), 3, size, size, device=device)
    with torch.no_grad():
        return median_seconds(device, lambda: teacher(images)) / len(images)


def _only_passes(unit: Unit) -> bool:
    return "patch" in unit.key or has_weights(unit.key["network"])


def _times(run: Run, unit: Unit) -> int:
    """Return how many of what was timed a unit does: epochs, or images that are looked at."""
    if not _only_passes(unit):
        return run.settings.squeeze_epochs
    return len(open_dataset(run.settings).labels("train" if "patch" in unit.key else "val"))


def _epoch_seconds(run: Run, name: str) -> float:
    settings, dataset = run.settings, open_dataset(run.settings)
    device, size = choose_device(settings.device), dataset.image_size
    count = len(dataset.labels("train"))
    batch = min(settings.squeeze_batch, count)
    shown = timed_images(device, _STEPS * batch, size=size)
    plan = replace(squeeze_plan(settings, name), epochs=1, batch=min(batch, shown))
    with seeded(0, device), matrix_precision(plan.precision, device):
        network = build_network(
            architecture_of(name), classes=len(dataset.classes), image_size=size
        )
        network.to(device).to(memory_format=torch.channels_last)
        images = torch.randn(shown, 3, size, size)
        images = images.to(device, memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        seconds = median_seconds(
            device, lambda: optimise(network, images, labels, plan, lambda _: None)
        )
    return seconds / (shown // plan.batch * plan.batch) * (count // batch * batch)
