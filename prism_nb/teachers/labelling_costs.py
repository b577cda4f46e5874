"""What it costs to label a view, from a few real ones on this device."""

from __future__ import annotations

import torch

from prism_nb.artifacts.views import epoch_views
from prism_nb.data import open_dataset
from prism_nb.device import choose_device, median_seconds, timed_images
from prism_nb.run import Run
from prism_nb.teachers.labeller import Labeller
from prism_nb.teachers.pool import fresh_teacher

_MOST = 64  # images


def view_seconds(run: Run) -> float:
    """Return the seconds that a run's label teachers take for one view of one image."""
    settings, dataset = run.settings, open_dataset(run.settings)
    device, size = choose_device(settings.device), dataset.image_size
    teachers = [fresh_teacher(name, dataset, device) for name in settings.labellers]
    labeller = Labeller(settings, teachers, [1.0] * len(teachers))
    count = min(len(dataset.classes) * settings.ipc, _MOST)
    count = timed_images(device, count, size=size)
    images = torch.zeros(count, 3, size, size, device=device)

    def label() -> None:
        labeller(images, epoch_views(settings, count, 0, device))

    return median_seconds(device, label) / count
