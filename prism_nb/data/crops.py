"""Random crops, as numbers."""

from __future__ import annotations

import math

import torch

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)
Box = tuple[int, int, int, int]


def draw_crop(
    size: int,
    crop_min: float,
    generator: torch.Generator,
    *,
    ratios: tuple[float, float] = _RATIOS,
) -> Box:
    """Draw a crop (top, left, height, width) with the distribution of RandomResizedCrop.

    Area uniform in [crop_min, 1] of the image, aspect ratio log-uniform in `ratios`; a draw
    that does not fit is repeated, up to ten times, then the whole image is taken.
    """
    low, high = (math.log(ratio) for ratio in ratios)
    for _ in range(_TRIES):
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        area = size * size * (crop_min + u * (1 - crop_min))
        ratio = math.exp(low + v * (high - low))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size and 0 < height <= size:
            top = int(torch.randint(0, size - height + 1, (), generator=generator))
            left = int(torch.randint(0, size - width + 1, (), generator=generator))
            return top, left, height, width
    return 0, 0, size, size
