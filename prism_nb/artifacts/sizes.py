"""How much disk artifacts take, known from the settings alone."""

from __future__ import annotations

from prism_nb.artifacts.codecs import row_bytes
from prism_nb.settings import Settings

MOST_HELD = 2**28  # bytes of a set that is simply read into memory
_LARGE_IMAGE = 1.1  # bytes of a PNG of noise per byte of its pixels, at most
_VIEW = 8 + 1 + 4 + 8 + 4  # bytes of crop, flip, partner, box and ratio


def image_bytes(settings: Settings, images: int) -> float:
    """Return the most bytes that so many images take; those of photographs are smaller."""
    return images * 3 * settings.image_size**2 * _LARGE_IMAGE


def set_bytes(settings: Settings, classes: int) -> int:
    """Return what a set of images takes of the cache once it is decoded; 0 for small ones."""
    taken = 3 * settings.image_size**2 * classes * settings.ipc
    return taken if taken > MOST_HELD else 0


def label_bytes(settings: Settings, images: int, classes: int) -> float:
    """Return the bytes of all epochs of labels of so many images; 0 where none are stored."""
    if settings.labels != "stored":
        return 0.0
    row = row_bytes(settings.label_format, classes, top_k=settings.label_top_k)
    return images * settings.label_epochs * (_VIEW + row)
