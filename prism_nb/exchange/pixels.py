"""From the bytes of other people's image files to pixels, and back to bytes."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from prism_nb.errors import UsageError

_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "CMYK"}  # of 8 bits or fewer per channel
MOST_PIXELS = 2**24  # of an image, above which it is a decompression bomb


def decode(content: bytes, *, name: str, size: int, resize: bool) -> Tensor:
    """Decode one PNG, JPEG or WebP image.

    Args:
        content: The file's bytes.
        name: What messages call it.
        size: The side that it must have, in pixels.
        resize: Whether one of another size is scaled (bicubic) until it covers the square, and
            cut at its centre; otherwise it is refused.

    Returns:
        Pixels, uint8 RGB [3, size, size].

    Raises:
        UsageError: It is no such image, is damaged, too large to be meant, of another size, partly
            transparent, animated, or of more than 8 bits per channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=_FORMATS) as image:
                _require_plain(image, name)
                _require_size(image, name, size, resize=resize)
                plain = _rgb(image, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{name} is a decompression bomb: {error}; do not trust it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UsageError(
            f"{name} cannot be read as PNG, JPEG or WebP: {error}; fetch it again or take it away"
        ) from None
    if plain.size != (size, size):
        plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(plain)).permute(2, 0, 1).contiguous()


def encode_jpeg(image: Tensor, quality: int) -> bytes:
    """Encode a uint8 RGB image [3, H, W] as JPEG, which changes it; quality in 1..100."""
    buffer = BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _require_plain(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UsageError(
            f"{name} is a decompression bomb: it would unpack to {width} x {height} pixels; do not "
            "trust it"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise UsageError(f"{name} is animated; store one picture per file")
    if image.mode not in _MODES:
        raise UsageError(
            f"{name} has pixels of kind {image.mode}; store it with 8 bits per channel"
        )


def _require_size(image: Image.Image, name: str, size: int, *, resize: bool) -> None:
    if image.size != (size, size) and not resize:
        width, height = image.size
        raise UsageError(
            f"{name} is {width} x {height} pixels, but image_size is {size}; set image_size to "
            "theirs, or `resize: true` in the recipe (--resize) to fit them"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:
            raise UsageError(
                f"{name} is partly transparent, so its colours depend on what lies behind it; "
                "store it without transparency"
            )
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
