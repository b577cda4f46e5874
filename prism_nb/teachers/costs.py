"""What training a network will cost, from a few real steps on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from prism_nb.data import open_dataset
from prism_nb.device import choose_device, matrix_precision, median_seconds, seeded
from prism_nb.run import Run
from prism_nb.teachers.networks import architecture_of, build_network
from prism_nb.teachers.pretrained import own_space
from prism_nb.teachers.squeeze import optimise
from prism_nb.teachers.squeeze_plan import squeeze_plan
from prism_nb.units import Unit, has_weights

_STEPS = 3  # timed together


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take; a statistics unit is one pass, half an epoch.

    Weights from elsewhere cost a pass over the held-out images.
    """
    known = {n: _epoch_seconds(run, n) for n in dict.fromkeys(u.key["network"] for u in units)}
    return [known[u.key["network"]] * _epochs(run, u) for u in units]


def _epochs(run: Run, unit: Unit) -> float:
    """Return a unit's work in epochs of training, of which a pass forward is a third."""
    if "patch" in unit.key:
        return 0.5
    if not has_weights(unit.key["network"]):
        return run.settings.squeeze_epochs
    dataset = open_dataset(run.settings)
    return len(dataset.labels("val")) / len(dataset.labels("train")) / 3


def _epoch_seconds(run: Run, name: str) -> float:
    settings, dataset = run.settings, open_dataset(run.settings)
    device = choose_device(settings.device)
    count = len(dataset.labels("train"))
    batch = min(settings.squeeze_batch, count)
    plan = replace(squeeze_plan(settings, name), epochs=1, batch=batch)
    with seeded(0, device), matrix_precision(plan.precision, device):
        size = own_space(name, dataset).size if has_weights(name) else dataset.image_size
        network = build_network(
            architecture_of(name), classes=len(dataset.classes), image_size=size
        )
        network.to(device).to(memory_format=torch.channels_last)
        images = torch.randn(_STEPS * batch, 3, size, size)
        images = images.to(device, memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        seconds = median_seconds(
            device, lambda: optimise(network, images, labels, plan, lambda _: None)
        )
    return seconds / _STEPS * (count // batch)
