"""Pictures of a run's images, class by class."""

from __future__ import annotations

from prism_nb.artifacts.images import load_images, load_reference
from prism_nb.data import open_dataset
from prism_nb.figures.sheets import contact_sheet
from prism_nb.plans.diversity import REFERENCE
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
    dataset, ipc = open_dataset(run.settings), run.settings.ipc
    load = load_reference(run, dataset) if method == REFERENCE else load_images(run, method, dataset)
    pixels = load[0].view(len(dataset.classes), ipc, *load[0].shape[1:])
    shown = pixels[:_MOST_CLASSES, :_MOST_SLOTS]
    columns = shown.shape[1]
    zoom = max(1, min(4, _WIDTH // (columns * dataset.image_size)))
    return contact_sheet(shown.flatten(0, 1), columns=columns, zoom=zoom)
