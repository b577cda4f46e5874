"""The random views that a network is trained on: shift, crop and flip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.artifacts.views import crop_and_flip
from prism_nb.data.crops import draw_crop


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn.

    Attributes:
        shift: Largest shift per axis in pixels, repeating the border.
        crop_min: Smallest share of the area that a crop may have, in (0, 1]; 1: no crops.
        flip: Whether half of the views are mirrored.
        per_image: Whether every image has a view of its own; if not, a batch shares one.
    """

    shift: int
    crop_min: float = 1.0
    flip: bool = False
    per_image: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Show images [N, 3, S, S] through views drawn from torch's global generator."""
        if self.crop_min == 1 and not self.flip and not self.per_image:
            return _shifted(images, self.shift)
        count, size = len(images) if self.per_image else 1, images.shape[-1]
        boxes, mirrored = (drawn.to(images.device) for drawn in self._draw(count, size))
        return crop_and_flip(images, boxes.expand(len(images), 4), mirrored.expand(len(images)))

    def _draw(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Draw shifted crops [count, 4], and whether each is mirrored [count]."""
        boxes = torch.tensor([0, 0, size, size]).repeat(count, 1)
        if self.crop_min < 1:
            generator = torch.default_generator
            boxes = torch.tensor([draw_crop(size, self.crop_min, generator) for _ in range(count)])
        boxes[:, :2] += torch.randint(-self.shift, self.shift + 1, (count, 2))
        return boxes, (torch.rand(count) < 0.5) & self.flip


def _shifted(images: Tensor, most: int) -> Tensor:
    """Move a batch by up to `most` pixels per axis, repeating the border."""
    if not most:
        return images
    size = images.shape[-1]
    top, left = torch.randint(0, 2 * most + 1, (2,)).tolist()
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    return padded[:, :, top : top + size, left : left + size]
