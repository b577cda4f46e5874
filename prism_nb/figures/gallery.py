"""Pictures of a run's images, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.artifacts.images import Resident, load_images, load_some
from prism_nb.artifacts.views import epoch_views, render
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.figures.sheets import Picture, contact_sheet
from prism_nb.run import Run

_MOST_CLASSES = 20
_MOST_SLOTS = 20


def gallery(run: Run, method: str) -> Picture:
    """Return a picture with a row per class and a column per image slot, the first twenty of each.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
    """
    dataset = open_dataset(run.settings)
    return _sheet(run, load_some(run, method, dataset, _shown(run, dataset)))


def views_sheet(run: Run, method: str, *, epoch: int) -> Picture:
    """Return a picture of an epoch's views as a student is shown them, laid out as in `gallery`.

    Args:
        run: The run.
        method: A method.
        epoch: The epoch, from 0.
    """
    dataset, ipc = open_dataset(run.settings), run.settings.ipc
    pixels, _ = load_images(run, method, dataset)
    views = epoch_views(run.settings, len(pixels), epoch, torch.device("cpu"))
    rows = torch.tensor([c * ipc + slot for c, slot in _shown(run, dataset)])
    return _sheet(run, dataset.bytes_of(render(Resident(pixels, dataset), views, rows)))


def _shown(run: Run, dataset: ImageDataset) -> list[tuple[int, int]]:
    """Return the class and slot of each picture."""
    classes = range(min(_MOST_CLASSES, len(dataset.classes)))
    return [(c, slot) for c in classes for slot in range(min(_MOST_SLOTS, run.settings.ipc))]


def _sheet(run: Run, pixels: Tensor) -> Picture:
    return contact_sheet(pixels, columns=min(_MOST_SLOTS, run.settings.ipc))
