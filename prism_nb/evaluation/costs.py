"""What training a student will cost, from a few real steps on this device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prism_nb.artifacts.labels import EpochLabels
from prism_nb.artifacts.views import epoch_views
from prism_nb.data import open_dataset
from prism_nb.device import (
    choose_device,
    matrix_precision,
    median_seconds,
    seeded,
    timed_images,
)
from prism_nb.evaluation.student import Pupil, train_epoch
from prism_nb.evaluation.work import curriculum
from prism_nb.run import Run
from prism_nb.settings import REFERENCE
from prism_nb.teachers.labelling_costs import view_seconds
from prism_nb.units import Unit

_STEPS = 3  # timed together, at most
_JUDGED = 256  # images


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take, from the costs of its student."""
    costs = {n: _student_costs(run, n) for n in dict.fromkeys(u.key["student"] for u in units)}
    label = view_seconds(run) if run.settings.labels == "online" else 0.0
    return [_seconds(run, unit, label, *costs[unit.key["student"]]) for unit in units]


def _seconds(run: Run, unit: Unit, label: float, train: float, judge: float) -> float:
    """Return a unit's seconds from those of an image: labelled, learned from, and judged."""
    settings, dataset = run.settings, open_dataset(run.settings)
    real = unit.key["method"] == REFERENCE
    count = len(dataset.labels("train")) if real else len(dataset.classes) * settings.ipc
    evaluations = -(-settings.epochs // settings.evaluate_every)
    if unit.key["treatment"] == "protocol":
        train += label
    return train * count * settings.epochs + judge * len(dataset.labels("val")) * evaluations


def _student_costs(run: Run, name: str) -> tuple[float, float]:
    """Return the seconds that a student takes to learn from an image, and to judge one."""
    settings, dataset = run.settings, open_dataset(run.settings)
    device, plan = choose_device(settings.device), curriculum(run.settings, 0)
    size, classes = dataset.image_size, len(dataset.classes)
    count = classes * settings.ipc
    with seeded(0, device), matrix_precision(plan.precision, device):
        shown = timed_images(device, min(count, _STEPS * plan.batch), size=size)
        images = torch.randn(shown, 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = EpochLabels(
            epoch_views(settings, len(images), 0, device),
            torch.zeros(len(images), classes, dtype=torch.float16, device=device),
        )
        targets = torch.zeros(len(images), dtype=torch.int64, device=device)
        pupil = Pupil(name, dataset, plan, device)
        train = median_seconds(device, lambda: train_epoch(pupil, images, targets, labels, plan))
        student = pupil.judged.eval()
        some = images[:_JUDGED]
        with torch.no_grad():
            judge = median_seconds(device, lambda: student(some))
    return train / len(images), judge / len(some)
