"""What is stored of an image, and the published program's way of storing it."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prism_nb.data.image_io import encode_image, quantize
from prism_nb.data.small import Digits

DIGITS = Digits(32)


def noisy() -> tuple[Tensor, np.ndarray]:
    """Return canonical images and the levels that they mean, some of them out of range."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 32, 32, generator=generator)
    levels = (images.double().numpy() * DIGITS.std[0] + DIGITS.mean[0]) * 255
    assert (levels < 0).any()
    assert (levels > 255).any()
    return images, levels


def test_exact_pixels_are_rounded_to_the_nearest_level() -> None:
    images, levels = noisy()
    stored = quantize(DIGITS, images, mode="png")
    assert stored.dtype == torch.uint8
    assert np.abs(stored.numpy() - np.clip(levels, 0, 255)).max() < 0.5 + 1e-4


def test_published_pixels_are_cut_off_and_read_back_from_jpeg_of_quality_75() -> None:
    images, levels = noisy()
    stored = quantize(DIGITS, images, mode="jpeg75")
    cut_off = np.floor(np.clip(levels, 0, 255)).astype(np.uint8)
    for image, whole in zip(stored, cut_off, strict=True):
        buffer = BytesIO()
        Image.fromarray(whole.transpose(1, 2, 0)).save(buffer, "JPEG", quality=75)
        expected = np.asarray(Image.open(BytesIO(buffer.getvalue())))
        assert (image.numpy().transpose(1, 2, 0) == expected).all()
    error = stored.numpy().astype(float) - cut_off
    assert np.sqrt((error**2).mean()) > 5  # noise survives JPEG badly


def test_stored_files_hold_the_pixels_without_loss() -> None:
    pixels = quantize(DIGITS, noisy()[0], mode="jpeg75")
    for image in pixels:
        with Image.open(BytesIO(encode_image(image))) as read:
            assert (read.format, read.mode) == ("PNG", "RGB")
            assert (np.asarray(read) == image.permute(1, 2, 0).numpy()).all()
