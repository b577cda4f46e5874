"""Random crops, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.settings import Settings
from prism_nb.core.units import unit_seed

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)
Box = tuple[int, int, int, int]


def sample_crop(
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


@dataclass(frozen=True)
class BatchAugParams:
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

    def rows(self, rows: Tensor) -> BatchAugParams:
        """Return the views of some images alone."""
        return BatchAugParams(*(value[rows] for value in vars(self).values()))

    def to(self, device: torch.device) -> BatchAugParams:
        """Return the views on a device."""
        return BatchAugParams(*(value.to(device) for value in vars(self).values()))

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
    def from_tensors(cls, tensors: dict[str, Tensor]) -> BatchAugParams:
        """Undo `tensors`."""
        fields = {name: tensors[name] for name in ("crop", "partner", "box", "ratio")}
        return cls(flip=tensors["flip"].to(torch.bool), **fields)


def epoch_params(
    settings: Settings, count: int, epoch: int, device: torch.device
) -> BatchAugParams:
    """Return an epoch's views; they are the same for every method of a run, to compare fairly."""
    generator = torch.Generator().manual_seed(unit_seed(settings.replicate_seed, "labels", epoch))
    views = sample_epoch_params(
        count,
        settings.image_size,
        crop_min=settings.label_crop_min,
        flip=settings.label_flip,
        mix=settings.label_mix,
        generator=generator,
    )
    return views.to(device)


def sample_epoch_params(
    count: int, size: int, *, crop_min: float, flip: bool, mix: str, generator: torch.Generator
) -> BatchAugParams:
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
    crops = [sample_crop(size, crop_min, generator) for _ in range(count)]
    mirrored = torch.rand(count, generator=generator) < 0.5
    partners = torch.randperm(count, generator=generator)
    boxes = [
        sample_bbox(size, generator) if mix == "cutmix" else (0, 0, 0, 0) for _ in range(count)
    ]
    blended = torch.rand(count, generator=generator) if mix == "mixup" else torch.zeros(count)
    return BatchAugParams(
        crop=torch.tensor(crops, dtype=torch.int16),
        flip=mirrored & flip,
        partner=partners.to(torch.int32),
        box=torch.tensor(boxes, dtype=torch.int16),
        ratio=blended,
    )


def identity_params(count: int, size: int, device: torch.device) -> BatchAugParams:
    """Return the views that show each image as it is; partners are drawn but not shown."""
    partners = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([0, 0, size, size], dtype=torch.int16, device=device)
    return BatchAugParams(
        crop=whole.repeat(count, 1),
        flip=torch.zeros(count, dtype=torch.bool, device=device),
        partner=partners.to(device, torch.int32),
        box=torch.zeros(count, 4, dtype=torch.int16, device=device),
        ratio=torch.zeros(count, device=device),
    )


def sample_bbox(size: int, generator: torch.Generator) -> tuple[int, int, int, int]:
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


def render(images: ImageSet, views: BatchAugParams, rows: Tensor) -> Tensor:
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


def render_batches(rows: Tensor, size: int) -> list[Tensor]:
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


_LARGE = 128  # pixels


@dataclass(frozen=True)
class AugParams:
    """One drawn view.

    Attributes:
        crop: Top, left, height and width, in pixels.
        flip: Whether to mirror left and right.
        shift: Cyclic shift down and right, in pixels.
    """

    crop: Box
    flip: bool = False
    shift: tuple[int, int] = (0, 0)


def sample_augmentation(
    size: int, *, crop_min: float, flip: bool, jitter: int, generator: torch.Generator
) -> AugParams:
    """Draw a view as the published PRISM and SRe2L programs do.

    Args:
        size: Side of the images, in pixels.
        crop_min: Smallest share of the area that a crop may have, in (0, 1].
        flip: Whether half of the views are mirrored.
        jitter: Largest cyclic shift, in pixels.
        generator: The unit's generator, on the CPU.
    """
    crop = sample_crop(size, crop_min, generator)
    mirrored = flip and torch.rand((), generator=generator).item() < 0.5
    shift = torch.randint(0, jitter + 1, (2,), generator=generator).tolist()
    return AugParams(crop, mirrored, (shift[0], shift[1]))


def augment(images: Tensor, views: list[AugParams]) -> Tensor:
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


def _slice(images: Tensor, view: AugParams) -> Tensor:
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


@dataclass(frozen=True)
class TrainAugmentation:
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
            boxes = torch.tensor(
                [sample_crop(size, self.crop_min, generator) for _ in range(count)]
            )
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
