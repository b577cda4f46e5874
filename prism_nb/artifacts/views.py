"""The augmented views of an epoch: drawn once, stored as numbers, replayed exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.data.crops import draw_crop
from prism_nb.settings import Settings
from prism_nb.units import unit_seed


@dataclass(frozen=True)
class Views:
    """One view of each image of a set, keyed by image index.

    Attributes:
        crop: Top, left, height and width in pixels, int16 [N, 4].
        flip: Whether the view is mirrored, bool [N].
        partner: Index of the image whose view is mixed in, int32 [N].
        box: Top, left, height and width of what is pasted (CutMix), int16 [N, 4]; height 0: none.
        ratio: How much of the whole view is blended in (MixUp), float32 [N] in [0, 1].
    """

    crop: Tensor
    flip: Tensor
    partner: Tensor
    box: Tensor
    ratio: Tensor

    def share(self, size: int) -> Tensor:
        """Return how much of each view of a side is the partner's, float32 [N] in [0, 1]."""
        pasted = self.box[:, 2].float() * self.box[:, 3].float() / size**2
        return torch.maximum(pasted, self.ratio)

    def rows(self, rows: Tensor) -> Views:
        """Return the views of some images alone."""
        return Views(*(value[rows] for value in vars(self).values()))

    def to(self, device: torch.device) -> Views:
        """Return the views on a device."""
        return Views(*(value.to(device) for value in vars(self).values()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, flags as uint8, ready for safetensors."""
        return {
            "crop": self.crop,
            "flip": self.flip.to(torch.uint8),
            "partner": self.partner,
            "box": self.box,
            "ratio": self.ratio,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Views:
        """Undo `tensors`."""
        fields = {name: tensors[name] for name in ("crop", "partner", "box", "ratio")}
        return cls(flip=tensors["flip"].to(torch.bool), **fields)


def epoch_views(settings: Settings, count: int, epoch: int, device: torch.device) -> Views:
    """Return an epoch's views; they are the same for every method of a run, to compare fairly."""
    generator = torch.Generator().manual_seed(unit_seed(settings.replicate_seed, "labels", epoch))
    views = draw_views(
        count,
        settings.image_size,
        crop_min=settings.label_crop_min,
        flip=settings.label_flip,
        mix=settings.label_mix,
        generator=generator,
    )
    return views.to(device)


def draw_views(
    count: int, size: int, *, crop_min: float, flip: bool, mix: str, generator: torch.Generator
) -> Views:
    """Draw one view per image.

    Args:
        count: Number of images.
        size: Their side, in pixels.
        crop_min: Smallest share of the area that a crop may have, in (0, 1].
        flip: Whether half of the views are mirrored.
        mix: `cutmix` (Yun et al. 2019) or `mixup` (Zhang et al. 2018), each with a uniform ratio,
            as Beta(1, 1), or `none`.
        generator: Decides everything.
    """
    crops = [draw_crop(size, crop_min, generator) for _ in range(count)]
    mirrored = torch.rand(count, generator=generator) < 0.5
    partners = torch.randperm(count, generator=generator)
    boxes = [draw_box(size, generator) if mix == "cutmix" else (0, 0, 0, 0) for _ in range(count)]
    blended = torch.rand(count, generator=generator) if mix == "mixup" else torch.zeros(count)
    return Views(
        crop=torch.tensor(crops, dtype=torch.int16),
        flip=mirrored & flip,
        partner=partners.to(torch.int32),
        box=torch.tensor(boxes, dtype=torch.int16),
        ratio=blended,
    )


def plain_views(count: int, size: int, device: torch.device) -> Views:
    """Return the views that show each image as it is; partners are drawn but not shown."""
    partners = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([0, 0, size, size], dtype=torch.int16, device=device)
    return Views(
        crop=whole.repeat(count, 1),
        flip=torch.zeros(count, dtype=torch.bool, device=device),
        partner=partners.to(device, torch.int32),
        box=torch.zeros(count, 4, dtype=torch.int16, device=device),
        ratio=torch.zeros(count, device=device),
    )


def draw_box(size: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Draw a CutMix box (top, left, height, width): a square of area 1 - ratio, clipped."""
    ratio, row, column = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    half = size * math.sqrt(1 - ratio) / 2
    top, bottom = (max(0, min(size, round(row * size + sign * half))) for sign in (-1, 1))
    left, right = (max(0, min(size, round(column * size + sign * half))) for sign in (-1, 1))
    return top, left, bottom - top, right - left


class ImageSet(Protocol):
    """What views are taken of: a tensor of canonical images, or what answers like one."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, canonical [n, 3, S, S]."""

    def __len__(self) -> int:
        """Return their number, N."""


def render(images: ImageSet, views: Views, rows: Tensor) -> Tensor:
    """Replay the views of some images.

    A row's result depends on nothing but its own view and its partner's: not on the batch.

    Args:
        images: The whole set.
        views: The views of the set, on the same device.
        rows: Indices of the images wanted, int64 [n].

    Returns:
        The views, [n, 3, S, S].
    """
    partners = views.partner[rows].long()
    own = crop_and_flip(images[rows], views.crop[rows], views.flip[rows])
    other = crop_and_flip(images[partners], views.crop[partners], views.flip[partners])
    pasted = _inside(views.box[rows], own.shape[-1])
    share = torch.maximum(pasted.to(own.dtype), views.ratio[rows, None, None].to(own.dtype))
    return torch.lerp(own, other, share[:, None])  # exact where the share is 0 or 1


def in_batches(rows: Tensor, size: int) -> list[Tensor]:
    """Cut rows into batches; a last one of one, which batch norm cannot take, joins another."""
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def crop_and_flip(images: Tensor, crop: Tensor, flip: Tensor) -> Tensor:
    """Enlarge crops to the full size with one bilinear grid; mirroring reverses its columns.

    Args:
        images: [n, 3, S, S].
        crop: Top, left, height and width of each, in pixels [n, 4]; beyond the border lies what
            is on it.
        flip: Which are mirrored, bool [n].
    """
    size = images.shape[-1]
    top, left, height, width = crop.to(torch.float32).unbind(1)
    middle = (torch.arange(size, device=images.device) + 0.5) / size
    rows = (top[:, None] + height[:, None] * middle) / size * 2 - 1
    columns = (left[:, None] + width[:, None] * middle) / size * 2 - 1
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    grid = torch.stack(
        [
            columns[:, None, :].expand(-1, size, -1),
            rows[:, :, None].expand(-1, -1, size),
        ],
        dim=-1,
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _inside(box: Tensor, size: int) -> Tensor:
    """Return which pixels lie in each box, bool [n, S, S]."""
    top, left, height, width = (value[:, None] for value in box.to(torch.int64).unbind(1))
    at = torch.arange(size, device=box.device)[None]
    in_rows = (at >= top) & (at < top + height)
    in_columns = (at >= left) & (at < left + width)
    return in_rows[:, :, None] & in_columns[:, None, :]
