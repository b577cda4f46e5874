"""What labelling will cost, from one small epoch on this device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prism_nb.artifacts.views import epoch_views
from prism_nb.data import open_dataset
from prism_nb.device import choose_device, median_seconds
from prism_nb.run import Run
from prism_nb.teachers.labeller import Labeller
from prism_nb.teachers.pool import fresh_teacher
from prism_nb.units import Unit

_MOST = 64  # images


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take: one and the same for every method."""
    settings, dataset = run.settings, open_dataset(run.settings)
    device, size = choose_device(settings.device), dataset.image_size
    if settings.labels != "stored":
        return [0.0] * len(units)
    count = len(dataset.classes) * settings.ipc
    teachers = [fresh_teacher(name, dataset, device) for name in settings.labellers]
    labeller = Labeller(settings, teachers, [1.0] * len(teachers))
    images = torch.zeros(min(count, _MOST), 3, size, size, device=device)

    def label() -> None:
        labeller(images, epoch_views(settings, len(images), 0, device))

    seconds = median_seconds(device, label) * count / len(images) * settings.label_epochs
    return [seconds] * len(units)
