"""Image files as square RGB bytes, decoded side by side."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from prism_nb.errors import PrismError

_MARGIN = 256 / 224  # what the shorter side keeps beside the crop, as in ImageNet's evaluation
# What Pillow raises on files that are damaged, cut off, no image at all or absurdly large.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class DamagedImage(PrismError):
    """An image file that cannot be decoded."""


def read_image(path: Path, size: int) -> np.ndarray:
    """Return an image as RGB bytes, its shorter side resized, its centre cut out.

    It is turned as its EXIF orientation says. Transparent parts lie over white; greyscale,
    palette and CMYK become RGB as Pillow converts them, 16-bit grey keeps its upper eight bits;
    of an animation, the first frame is taken. The shorter side becomes size * 256 / 224, rounded
    (bicubic, antialiased), as in the published evaluation of ImageNet classifiers.

    Args:
        path: A JPEG, PNG or WebP file, whatever its name ends in.
        size: Side of the square, in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DamagedImage: The file cannot be read or decoded; it is named.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(_square(_rgb(ImageOps.exif_transpose(image)), size))
    except _DAMAGE as error:
        raise DamagedImage(
            f"image {path} cannot be decoded: {error}; restore that file, or set skip_damaged to "
            "true to leave damaged images out"
        ) from None


def read_images(paths: Sequence[Path], size: int) -> Tensor:
    """Return images as `read_image` reads them, uint8 [n, 3, size, size].

    As many threads decode as torch computes with, so that workers side by side share the cores.
    """
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def read(place: int) -> None:
        pixels[place] = read_image(paths[place], size)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for _ in threads.map(read, range(len(paths))):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda level: level / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    shorter = round(size * _MARGIN)
    least = min(image.size)
    width, height = (shorter * side // least for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))
