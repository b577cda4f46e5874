"""What training a student will cost, from a few real steps on this device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prism_nb.artifacts.labels import EpochLabels
from prism_nb.artifacts.views import epoch_views
from prism_nb.data import open_dataset
from prism_nb.device import choose_device, matrix_precision, median_seconds, seeded
from prism_nb.evaluation.student import new_student, train_epoch
from prism_nb.evaluation.work import curriculum
from prism_nb.run import Run
from prism_nb.units import Unit

_STEPS = 3  # timed together


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take, from the cost of its student."""
    known = {n: _student_seconds(run, n) for n in dict.fromkeys(u.key["student"] for u in units)}
    return [known[u.key["student"]] for u in units]


def _student_seconds(run: Run, name: str) -> float:
    settings, dataset = run.settings, open_dataset(run.settings)
    device, plan = choose_device(settings.device), curriculum(run.settings, 0)
    size, classes = dataset.image_size, len(dataset.classes)
    count = classes * settings.ipc
    with seeded(0, device), matrix_precision(plan.precision, device):
        images = torch.randn(min(count, _STEPS * plan.batch), 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = EpochLabels(
            epoch_views(settings, len(images), 0, device),
            torch.zeros(len(images), classes, dtype=torch.float16, device=device),
        )
        targets = torch.zeros(len(images), dtype=torch.int64, device=device)
        student, optimiser = new_student(name, dataset, plan, device)
        train = median_seconds(
            device, lambda: train_epoch(student, optimiser, images, targets, labels, plan)
        )
        student.eval()
        with torch.no_grad():
            judge = median_seconds(device, lambda: student(images))
    evaluations = -(-plan.epochs // plan.evaluate_every)
    real = len(dataset.labels("val"))
    return (train * count * plan.epochs + judge * real * evaluations) / len(images)
