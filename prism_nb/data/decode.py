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

_LONGEST = 200  # sides over one another: a strip longer than that would take gigabytes to resize
IMAGENET_MARGIN = 256 / 224  # shorter side over crop in the published evaluation of ImageNet
# What Pillow raises on files that are damaged, cut off, no image at all or absurdly large.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class DamagedImageError(PrismError):
    """An image file that cannot be decoded.

    Attributes:
        path: The file.
    """

    path = Path()


def read_image(path: Path, size: int, margin: float = IMAGENET_MARGIN) -> np.ndarray:
    """Return an image as square RGB bytes.

    It is turned as its EXIF orientation says. Transparent parts lie over white; greyscale,
    palette and CMYK become RGB as Pillow converts them, 16-bit grey keeps its upper eight bits;
    of an animation, the first frame is taken. The shorter side becomes size * margin, rounded
    (bicubic, antialiased), of which the centre is cut out.

    Args:
        path: A JPEG, PNG or WebP file, whatever its name ends in.
        size: Side of the square, in pixels.
        margin: The shorter side before the cut, over `size`; at least 1.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DamagedImageError: The file cannot be read or decoded; it is named.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(square(_rgb(ImageOps.exif_transpose(image)), size, margin))
    except DAMAGE as error:
        raise _damaged(path, error) from None


def read_images(paths: Sequence[Path], size: int, margin: float = IMAGENET_MARGIN) -> Tensor:
    """Return images as `read_image` reads them, uint8 [n, 3, size, size].

    As many threads decode as torch computes with, so that workers side by side share the cores.
    """
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def read(place: int) -> None:
        pixels[place] = read_image(paths[place], size, margin)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for _ in threads.map(read, range(len(paths))):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _damaged(path: Path, why: Exception) -> DamagedImageError:
    error = DamagedImageError(
        f"image {path} cannot be decoded: {why}; restore that file, and the same command goes on; "
        "or begin another run with skip_damaged set to true, which leaves damaged images out"
    )
    error.path = path  # no argument, so that the error can pass from one process to another
    return error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda level: level / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, size: int, margin: float) -> Image.Image:
    """Resize an image's shorter side to size * margin and cut out its centre.

    Raises:
        ValueError: One side is more than 200 times the other.
    """
    shorter = round(size * margin)
    least = min(image.size)
    if max(image.size) > least * _LONGEST:
        raise ValueError(f"it is {image.width} x {image.height} pixels, a mere strip")
    width, height = (shorter * side // least for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))
