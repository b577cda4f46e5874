"""Contact sheets: many small images as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from prism_nb.figures.sprites import QUALITY, thumbnails

_GAP = 2  # pixels between images
_PAPER = 235  # grey of the gaps
_WIDTH = 900  # pixels, about
_MOST = 4  # times that an image is enlarged, at most
_HOW: dict[str, dict[str, Any]] = {
    "png": {"optimize": True},
    "jpeg": {"quality": QUALITY, "subsampling": 0},
}


@dataclass(frozen=True)
class Picture:
    """A picture as a file holds it.

    Attributes:
        content: The file's.
        kind: `png` or `jpeg`, also its ending.
    """

    content: bytes
    kind: str


def contact_sheet(images: Tensor, *, columns: int) -> Picture:
    """Lay images out row by row, some 900 pixels wide.

    Small images keep their pixels, enlarged without smoothing, as PNG; those that are too wide
    are averaged down, as JPEG: a sheet of photographs is a megabyte then, and not dozens.

    Args:
        images: uint8 RGB [N, 3, S, S], N at least 1.
        columns: Images per row.
    """
    side = _WIDTH // columns
    tiles = thumbnails(images.cpu(), side)
    zoom = max(1, min(_MOST, side // tiles[0].shape[0]))
    sheet = Image.fromarray(_laid_out(tiles, columns))
    sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    kind = "jpeg" if side < images.shape[-1] else "png"
    buffer = BytesIO()
    sheet.save(buffer, format=kind, **_HOW[kind])
    return Picture(buffer.getvalue(), kind)


def _laid_out(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    step = tiles[0].shape[0] + _GAP
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * step - _GAP, columns * step - _GAP, 3), _PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * step, (index % columns) * step
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
