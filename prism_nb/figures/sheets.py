"""Contact sheets: many small images as one picture."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

_GAP = 2  # pixels between images
_PAPER = 235  # grey of the gaps


def contact_sheet(images: Tensor, *, columns: int, zoom: int = 1) -> bytes:
    """Lay images out row by row and return them as one PNG.

    Args:
        images: uint8 RGB [N, 3, H, W], N at least 1.
        columns: Images per row.
        zoom: Whole-number enlargement, without smoothing.
    """
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _PAPER, np.uint8
    )
    for index, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top = (index // columns) * (height + _GAP)
        left = (index % columns) * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet)
    picture = picture.resize(
        (sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST
    )
    buffer = BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
