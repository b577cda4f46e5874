"""Many images as one picture without gaps, which a page cuts up again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

QUALITY = 88  # of thumbnails, whose pixels are means of others anyway


@dataclass(frozen=True)
class Sprites:
    """Square images in one picture.

    Attributes:
        picture: PNG with the images' own pixels, or JPEG of smaller ones.
        kind: `png` or `jpeg`.
        columns: Images per row.
        rows: Rows.
    """

    picture: bytes
    kind: str
    columns: int
    rows: int

    def place(self, index: int) -> tuple[int, int]:
        """Return the row and column of an image."""
        return divmod(index, self.columns)


def sprites(images: Tensor, side: int) -> Sprites:
    """Lay images out for display at a side.

    Images that are shown at their own size or larger keep their pixels, and the page enlarges
    them; larger ones are made smaller here, so that no more is sent than is seen.

    Args:
        images: uint8 RGB [N, 3, S, S], N at least 1.
        side: The side at which each is shown, in pixels.
    """
    tiles = thumbnails(images, side)
    columns = math.ceil(math.sqrt(len(tiles)))
    kind = "jpeg" if side < images.shape[-1] else "png"
    return Sprites(_encoded(_grid(tiles, columns), kind), kind, columns, -(-len(tiles) // columns))


def thumbnails(images: Tensor, side: int) -> list[np.ndarray]:
    """Return images [S, S, 3], averaged down to a side where they are larger."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    if side >= images.shape[-1]:
        return list(pixels)
    return [_smaller(image, side) for image in pixels]


def _smaller(image: np.ndarray, side: int) -> np.ndarray:
    small = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small)


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    side = tiles[0].shape[0]
    sheet = np.zeros((-(-len(tiles) // columns) * side, columns * side, 3), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * side, (index % columns) * side
        sheet[top : top + side, left : left + side] = tile
    return sheet


def _encoded(sheet: np.ndarray, kind: str) -> bytes:
    buffer, picture = BytesIO(), Image.fromarray(sheet)
    if kind == "png":
        picture.save(buffer, format="PNG", compress_level=1)
    else:
        picture.save(buffer, format="JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
