"""A gallery's page as one PNG, with the methods' names above their images."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prism_nb.figures.gallery_view import GalleryView, Panel
from prism_nb.figures.palette import looks_of
from prism_nb.figures.sheets import Picture
from prism_nb.figures.sprites import thumbnails

GAP = 2  # pixels between images
HEAD = 22  # height of a title
_PAPER = (255, 255, 255)
_WIDTH = 1200  # pixels, about
_MOST = 8  # times that a page is enlarged, at most


def contact_picture(panels: Sequence[Panel], view: GalleryView) -> Picture:
    """Return what a gallery shows as a PNG, panels one below the other.

    Where an image is shown at a multiple of its own side, its pixels are repeated and nothing
    else; with initial images, each stands left of its image.

    Args:
        panels: The result of `gallery_view.panels`.
        view: What they show.
    """
    looks = looks_of(panel.method for panel in panels)
    strips = [_strip(panel, view, looks[panel.method].colour) for panel in panels]
    sheet = Image.new(
        "RGB", (max((s.width for s in strips), default=1), sum(s.height for s in strips)), _PAPER
    )
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return Picture(buffer.getvalue(), "png")


def _strip(panel: Panel, view: GalleryView, colour: str) -> Image.Image:
    tiles = _tiles(panel, view)
    step = (tiles[0].shape[1] if tiles else 0) + GAP
    columns = max(1, _WIDTH // step)
    high = (tiles[0].shape[0] + GAP) * -(-len(tiles) // columns) if tiles else 0
    strip = Image.new("RGB", (max(260, min(columns, len(tiles)) * step), HEAD + high + GAP), _PAPER)
    _title(strip, panel.title, colour)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        strip.paste(Image.fromarray(tile), (column * step, HEAD + row * (tile.shape[0] + GAP)))
    return strip


def _title(strip: Image.Image, title: str, colour: str) -> None:
    draw = ImageDraw.Draw(strip)
    draw.rectangle((0, 3, 6, HEAD - 5), fill=colour)
    font = ImageFont.load_default(14)
    draw.text((12, 2), title, fill=(30, 30, 30), font=font)


def _tiles(panel: Panel, view: GalleryView) -> list[np.ndarray]:
    """Return the images as they are shown, each with its initial image to the left if there is."""
    if not len(panel.rows):
        return []
    shown = _enlarged(thumbnails(panel.images, view.side), view.side)
    if panel.before is None:
        return shown
    before = _enlarged(thumbnails(panel.before, view.side), view.side)
    return [np.hstack(pair) for pair in zip(before, shown, strict=True)]


def _enlarged(tiles: Sequence[np.ndarray], side: int) -> list[np.ndarray]:
    times = max(1, min(_MOST, side // tiles[0].shape[0]))
    return [tile.repeat(times, axis=0).repeat(times, axis=1) for tile in tiles]
