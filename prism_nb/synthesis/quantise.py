"""From canonical images to the 8-bit pixels that are stored."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prism_nb.data import ImageDataset

_JPEG_QUALITY = 75


def quantise(dataset: ImageDataset, images: Tensor, *, how: str) -> Tensor:
    """Turn canonical images [N, 3, S, S] into uint8 RGB on the CPU.

    Args:
        dataset: Gives the pixel space.
        images: The images.
        how: `exact`: rounded to the nearest level. `jpeg75`: cut off, compressed as JPEG of
            quality 75 and read back, as what the published PRISM program stores.
    """
    if how == "exact":
        return dataset.bytes_of(images).cpu()
    cut_off = dataset.bytes_of(images, rounded=False).cpu()
    return torch.stack([_through_jpeg(image) for image in cut_off])


def encode_png(image: Tensor) -> bytes:
    """Encode a uint8 RGB image [3, H, W] as PNG."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def _through_jpeg(image: Tensor) -> Tensor:
    buffer = BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    with Image.open(buffer) as stored:
        return torch.from_numpy(np.array(stored.convert("RGB"))).permute(2, 0, 1)
