"""Pictures of a run's images, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.artifacts.images import load_images, load_set
from prism_nb.artifacts.views import epoch_views, render
from prism_nb.data import open_dataset
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
    pixels, _ = load_set(run, method, dataset)
    return _sheet(pixels, classes=len(dataset.classes), size=dataset.image_size)


def views_sheet(run: Run, method: str, *, epoch: int) -> bytes:
    """Return a PNG of an epoch's views as a student is shown them, laid out as in `gallery`.

    Args:
        run: The run, labelled.
        method: A method.
        epoch: The epoch, from 0.
    """
    dataset = open_dataset(run.settings)
    pixels, _ = load_images(run, method, dataset)
    views = epoch_views(run.settings, len(pixels), epoch, torch.device("cpu"))
    shown = render(dataset.canonical(pixels), views, torch.arange(len(pixels)))
    return _sheet(dataset.bytes_of(shown), classes=len(dataset.classes), size=dataset.image_size)


def _sheet(pixels: Tensor, *, classes: int, size: int) -> bytes:
    shown = pixels.view(classes, -1, *pixels.shape[1:])[:_MOST_CLASSES, :_MOST_SLOTS]
    columns = shown.shape[1]
    zoom = max(1, min(4, _WIDTH // (columns * size)))
    return contact_sheet(shown.flatten(0, 1), columns=columns, zoom=zoom)
