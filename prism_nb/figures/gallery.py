"""Pictures of a run's images, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.artifacts.images import Resident, load_images, load_some
from prism_nb.artifacts.views import epoch_views, render
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.figures.sheets import contact_sheet
from prism_nb.run import Run

_MOST_CLASSES = 20
_MOST_SLOTS = 20
_WIDTH = 900  # pixels, about


def gallery(run: Run, method: str) -> bytes:
    """Return a PNG with a row per class and a column per image slot, the first twenty of each.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
    """
    dataset = open_dataset(run.settings)
    return _sheet(run, load_some(run, method, dataset, _shown(run, dataset)))


def views_sheet(run: Run, method: str, *, epoch: int) -> bytes:
    """Return a PNG of an epoch's views as a student is shown them, laid out as in `gallery`.

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


def _sheet(run: Run, pixels: Tensor) -> bytes:
    columns = min(_MOST_SLOTS, run.settings.ipc)
    zoom = max(1, min(4, _WIDTH // (columns * pixels.shape[-1])))
    return contact_sheet(pixels, columns=columns, zoom=zoom)
