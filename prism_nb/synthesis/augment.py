"""The random view of a step: one crop, flip and shift for the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.data.crops import draw_crop


@dataclass(frozen=True)
class View:
    """One drawn view.

    Attributes:
        top, left, height, width: The crop, in pixels.
        flip: Whether to mirror left and right.
        shift: Cyclic shift down and right, in pixels.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    shift: tuple[int, int]

    def __call__(self, images: Tensor) -> Tensor:
        """Apply the view to images [N, C, H, W]; the size stays, gradients flow."""
        crop = images[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        view = functional.interpolate(crop, size=images.shape[-2:], mode="bilinear")
        if self.flip:
            view = view.flip(-1)
        return torch.roll(view, self.shift, dims=(-2, -1)) if any(self.shift) else view


def draw_view(
    size: int, *, crop_min: float, flip: bool, roll: int, generator: torch.Generator
) -> View:
    """Draw a view as the published PRISM and SRe2L programs do.

    Args:
        size: Side of the images, in pixels.
        crop_min: Smallest share of the area that a crop may have, in (0, 1].
        flip: Whether half of the views are mirrored.
        roll: Largest cyclic shift, in pixels.
        generator: The unit's generator, on the CPU.
    """
    top, left, height, width = draw_crop(size, crop_min, generator)
    mirrored = flip and torch.rand((), generator=generator).item() < 0.5
    shift = torch.randint(0, roll + 1, (2,), generator=generator).tolist()
    return View(top, left, height, width, mirrored, (shift[0], shift[1]))
