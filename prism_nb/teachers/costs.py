"""What training a network will cost, from a few real steps on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from prism_nb.data import open_dataset
from prism_nb.device import choose_device, median_seconds, seeded
from prism_nb.run import Run
from prism_nb.teachers.networks import build_network
from prism_nb.teachers.squeeze import optimise
from prism_nb.teachers.work import squeeze_plan
from prism_nb.units import Unit

_STEPS = 3  # timed together


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take; a statistics unit is one pass, half an epoch."""
    epochs = run.settings.squeeze_epochs
    known = {n: _epoch_seconds(run, n) for n in dict.fromkeys(u.key["network"] for u in units)}
    return [known[u.key["network"]] * (0.5 if "patch" in u.key else epochs) for u in units]


def _epoch_seconds(run: Run, name: str) -> float:
    settings, dataset = run.settings, open_dataset(run.settings)
    device = choose_device(settings.device)
    count = len(dataset.labels("train"))
    batch = min(settings.squeeze_batch, count)
    plan = replace(squeeze_plan(settings, name), epochs=1, batch=batch)
    with seeded(0, device):
        network = build_network(name, classes=len(dataset.classes), image_size=dataset.image_size)
        network.to(device).to(memory_format=torch.channels_last)
        images = torch.randn(_STEPS * batch, 3, dataset.image_size, dataset.image_size)
        images = images.to(device, memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        seconds = median_seconds(
            device, lambda: optimise(network, images, labels, plan, lambda _: None)
        )
    return seconds / _STEPS * (count // batch)
