"""The random view of a step: crop, flip and shift, for the whole batch or image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.data.crops import Box, draw_crop

_LARGE = 128  # pixels


@dataclass(frozen=True)
class View:
    """One drawn view.

    Attributes:
        crop: Top, left, height and width, in pixels.
        flip: Whether to mirror left and right.
        shift: Cyclic shift down and right, in pixels.
    """

    crop: Box
    flip: bool = False
    shift: tuple[int, int] = (0, 0)


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
    crop = draw_crop(size, crop_min, generator)
    mirrored = flip and torch.rand((), generator=generator).item() < 0.5
    shift = torch.randint(0, roll + 1, (2,), generator=generator).tolist()
    return View(crop, mirrored, (shift[0], shift[1]))


def apply_views(images: Tensor, views: list[View]) -> Tensor:
    """Show images through views: crop, enlarge bilinearly to the full size, mirror, shift.

    All of that resamples rows and columns apart from each other, so a view is two matrices, and
    an image is seen by a product from either side, whatever its crop. Where large images share
    one view, slicing and interpolating it costs less.

    Args:
        images: [N, 3, S, S].
        views: One for all images, or one for each.

    Returns:
        [N, 3, S, S], differentiable.
    """
    size = images.shape[-1]
    if len(views) == 1 and size >= _LARGE:
        return _slice(images, views[0])
    numbers = torch.tensor([[*v.crop, v.flip, *v.shift] for v in views], dtype=torch.float64)
    top, left, height, width, flip, down, right = numbers.to(images.device).unbind(1)
    rows = _resampling(top, height, torch.zeros_like(flip), down, size).to(images.dtype)
    columns = _resampling(left, width, flip, right, size).to(images.dtype)
    if len(views) == 1:
        rows, columns = rows[0], columns[0]
    wide = (images.flatten(1, 2) @ columns.mT).unflatten(1, images.shape[1:3])
    return (wide.mT.flatten(1, 2) @ rows.mT).unflatten(1, images.shape[1:3]).mT


def _slice(images: Tensor, view: View) -> Tensor:
    """Show all images through one view."""
    top, left, height, width = view.crop
    crop = images[:, :, top : top + height, left : left + width]
    shown = functional.interpolate(crop, size=images.shape[-2:], mode="bilinear")
    shown = shown.flip(-1) if view.flip else shown
    return torch.roll(shown, view.shift, dims=(-2, -1))


def _resampling(start: Tensor, length: Tensor, flip: Tensor, shift: Tensor, size: int) -> Tensor:
    """Return matrices [n, size, size] that take one axis of an image to that axis of its view.

    Output pixel i, shifted and mirrored back, lies at (i + 1/2) length / size - 1/2 in the crop,
    and mixes the pixels around it by their distance, as bilinear interpolation does.
    """
    pixel = torch.arange(size, dtype=start.dtype, device=start.device)
    at = (pixel - shift[:, None]) % size
    at = torch.where(flip[:, None] > 0, size - 1 - at, at)
    source = (at + 0.5) * (length / size)[:, None] - 0.5
    source = start[:, None] + torch.minimum(source.clamp_min(0), length[:, None] - 1)
    return (1 - (source[:, :, None] - pixel).abs()).clamp_min(0)
