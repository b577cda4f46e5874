"""Augmentations: crops, CutMix and MixUp of student epochs, and those of synthesis and squeeze."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.settings import Settings
from prism_nb.core.units import unit_seed

_MAX_TRIES = 10
_ASPECT_RATIOS = (3 / 4, 4 / 3)
Box = tuple[int, int, int, int]  # top, left, height, width, in pixels


def sample_crop(
    size: int,
    crop_min: float,
    generator: torch.Generator,
    *,
    ratios: tuple[float, float] = _ASPECT_RATIOS,
) -> Box:
    """Sample a crop with the distribution of torchvision's RandomResizedCrop.

    Area uniform in [crop_min, 1] of the image, aspect ratio log-uniform in `ratios`; a sample
    that does not fit is repeated, up to ten times, then the whole image is taken.
    """
    low, high = (math.log(ratio) for ratio in ratios)
    for _ in range(_MAX_TRIES):
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        area = size * size * (crop_min + u * (1 - crop_min))
        ratio = math.exp(low + v * (high - low))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size and 0 < height <= size:
            top = int(torch.randint(0, size - height + 1, (), generator=generator))
            left = int(torch.randint(0, size - width + 1, (), generator=generator))
            return top, left, height, width
    return 0, 0, size, size


# -- one epoch of a student ------------------------------------------------------------------


@dataclass(frozen=True)
class BatchAugParams:
    """Augmentation parameters of one epoch: one view of each of N images, by image index.

    The names are those of FKD (Shen & Xing 2022). Boxes are top, left, height and width in pixels.
    """

    crop: Tensor  # int16 [N, 4]
    flip: Tensor  # whether the view is mirrored, bool [N]
    mix_index: Tensor  # the image whose view is mixed in, int32 [N]
    mix_bbox: Tensor  # of CutMix, int16 [N, 4]; height 0: none
    mix_weight: Tensor  # of the view that MixUp mixes in, 1 - lam of FKD, float32 [N] in [0, 1]

    def mix_fraction(self, size: int) -> Tensor:
        """Return the fraction of each view, `size` pixels wide, that is mixed in, float32 [N]."""
        pasted = self.mix_bbox[:, 2].float() * self.mix_bbox[:, 3].float() / size**2
        return torch.maximum(pasted, self.mix_weight)

    def select(self, rows: Tensor) -> BatchAugParams:
        """Return the parameters of some images."""
        return BatchAugParams(*(value[rows] for value in vars(self).values()))

    def to(self, device: torch.device) -> BatchAugParams:
        """Return the parameters on a device."""
        return BatchAugParams(*(value.to(device) for value in vars(self).values()))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, flags as uint8, ready for safetensors."""
        return {**vars(self), "flip": self.flip.to(torch.uint8)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> BatchAugParams:
        """Invert `to_tensors`; other tensors are ignored."""
        fields = {name: tensors[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "flip": fields["flip"].to(torch.bool)})


def epoch_params(
    settings: Settings, count: int, epoch: int, device: torch.device
) -> BatchAugParams:
    """Return an epoch's parameters, equal for all methods of a run, for a fair comparison."""
    generator = torch.Generator().manual_seed(unit_seed(settings.replicate_seed, "labels", epoch))
    params = sample_epoch_params(
        count,
        settings.image_size,
        crop_min=settings.label.crop_min,
        flip=settings.label.flip,
        mix=settings.label.mix,
        generator=generator,
    )
    return params.to(device)


def sample_epoch_params(
    count: int, size: int, *, crop_min: float, flip: bool, mix: str, generator: torch.Generator
) -> BatchAugParams:
    """Sample one view per image.

    Args:
        count: Number of images.
        size: Their side, in pixels.
        crop_min: Smallest area of a crop, as a fraction of the image, in (0, 1].
        flip: Whether half of the views are mirrored.
        mix: `cutmix` (Yun et al. 2019) or `mixup` (Zhang et al. 2018), each with lam uniform, as
            Beta(1, 1), or `none`.
        generator: Source of all randomness, on the CPU.
    """
    crops = [sample_crop(size, crop_min, generator) for _ in range(count)]
    flips = torch.rand(count, generator=generator) < 0.5
    partners = torch.randperm(count, generator=generator)
    boxes = [
        sample_bbox(size, generator) if mix == "cutmix" else (0, 0, 0, 0) for _ in range(count)
    ]
    weights = torch.rand(count, generator=generator) if mix == "mixup" else torch.zeros(count)
    return BatchAugParams(
        crop=torch.tensor(crops, dtype=torch.int16),
        flip=flips & flip,
        mix_index=partners.to(torch.int32),
        mix_bbox=torch.tensor(boxes, dtype=torch.int16),
        mix_weight=weights,
    )


def identity_params(count: int, size: int, device: torch.device) -> BatchAugParams:
    """Return parameters that leave each image as it is; partners are set, but not mixed in."""
    partners = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([0, 0, size, size], dtype=torch.int16, device=device)
    return BatchAugParams(
        crop=whole.repeat(count, 1),
        flip=torch.zeros(count, dtype=torch.bool, device=device),
        mix_index=partners.to(device, torch.int32),
        mix_bbox=torch.zeros(count, 4, dtype=torch.int16, device=device),
        mix_weight=torch.zeros(count, device=device),
    )


def sample_bbox(size: int, generator: torch.Generator) -> Box:
    """Sample a CutMix box: a square of area fraction 1 - lam, clipped to the image."""
    lam, row, column = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    half = size * math.sqrt(1 - lam) / 2
    top, bottom = (max(0, min(size, round(row * size + sign * half))) for sign in (-1, 1))
    left, right = (max(0, min(size, round(column * size + sign * half))) for sign in (-1, 1))
    return top, left, bottom - top, right - left


class ImageSet(Protocol):
    """Canonical images by index: a tensor, or an object that loads them."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return some images, canonical [n, 3, S, S]."""

    def __len__(self) -> int:
        """Return the number of images."""


def render(images: ImageSet, params: BatchAugParams, rows: Tensor) -> Tensor:
    """Return views [n, 3, S, S] of the images with indices `rows`, int64 [n].

    A view depends only on its own and its partner's parameters, not on the batch.
    """
    partners = params.mix_index[rows].long()
    own = crop_and_flip(images[rows], params.crop[rows], params.flip[rows])
    other = crop_and_flip(images[partners], params.crop[partners], params.flip[partners])
    pasted = _bbox_mask(params.mix_bbox[rows], own.shape[-1])
    weight = params.mix_weight[rows, None, None].to(own.dtype)
    share = torch.maximum(pasted.to(own.dtype), weight)
    return torch.lerp(own, other, share[:, None])  # exact where the share is 0 or 1


def join_last_one(batches: Sequence[Tensor]) -> list[Tensor]:
    """Join a last batch of one row, which batch norm refuses in training, to the one before."""
    joined = list(batches)
    if len(joined) > 1 and len(joined[-1]) == 1:
        joined[-2:] = [torch.cat(joined[-2:])]
    return joined


def crop_and_flip(images: Tensor, crop: Tensor, flip: Tensor) -> Tensor:
    """Resize crops of images [n, 3, S, S] to the full size, bilinearly, and mirror some.

    `crop` has top, left, height and width of each, in pixels [n, 4]; outside of the image, its
    border is repeated. `flip` is bool [n].
    """
    size = images.shape[-1]
    top, left, height, width = crop.to(torch.float32).unbind(1)
    middle = (torch.arange(size, device=images.device) + 0.5) / size
    rows = (top[:, None] + height[:, None] * middle) / size * 2 - 1
    columns = (left[:, None] + width[:, None] * middle) / size * 2 - 1
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _bbox_mask(bbox: Tensor, size: int) -> Tensor:
    """Return which pixels lie in each box, bool [n, S, S]."""
    top, left, height, width = (value[:, None] for value in bbox.to(torch.int64).unbind(1))
    pixel = torch.arange(size, device=bbox.device)[None]
    in_rows = (pixel >= top) & (pixel < top + height)
    in_columns = (pixel >= left) & (pixel < left + width)
    return in_rows[:, :, None] & in_columns[:, None, :]


# -- a step of synthesis ---------------------------------------------------------------------

_SLICE_FROM = 128  # pixels, from which slicing one shared view costs less than matrix products


@dataclass(frozen=True)
class AugParams:
    """One view in synthesis."""

    crop: Box
    flip: bool = False
    shift: tuple[int, int] = (0, 0)  # cyclic, down and right, in pixels
    cutout: Box = (0, 0, 0, 0)  # of the view; height 0: none


def sample_augmentation(
    size: int,
    *,
    crop_min: float,
    flip: bool,
    jitter: int,
    generator: torch.Generator,
    crop_pad: float = 0.0,
    cutout: float = 0.0,
) -> AugParams:
    """Sample a view with the distribution of the published PRISM and SRe2L programs.

    `crop_min` is the smallest area of a crop as a fraction of the image, in (0, 1]; `flip`, whether
    half of the views are mirrored; `jitter`, the largest cyclic shift in pixels. `crop_pad` and
    `cutout` are shares of the side, of the crop's largest shift to each side and of a square that
    is cut out (crop and cutout of DSA, Zhao & Bilen, ICML 2021).
    """
    crop = sample_crop(size, crop_min, generator)
    mirrored = flip and torch.rand((), generator=generator).item() < 0.5
    shift = torch.randint(0, jitter + 1, (2,), generator=generator).tolist()
    if most := int(crop_pad * size + 0.5):
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        crop = (crop[0] + down, crop[1] + right, *crop[2:])
    hole = _sample_cutout(size, int(cutout * size + 0.5), generator) if cutout else (0, 0, 0, 0)
    return AugParams(crop, mirrored, (shift[0], shift[1]), hole)


def _sample_cutout(size: int, side: int, generator: torch.Generator) -> Box:
    """Sample a square around any pixel, or border of pixels if its side is even, clipped."""
    centres = torch.randint(0, size + 1 - side % 2, (2,), generator=generator).tolist()
    low = [max(0, centre - side // 2) for centre in centres]
    high = [min(size, centre - side // 2 + side) for centre in centres]
    return low[0], low[1], high[0] - low[0], high[1] - low[1]


def augment(images: Tensor, views: Sequence[AugParams]) -> Tensor:
    """Augment images [N, 3, S, S]: crop, resize bilinearly to the full size, mirror, shift.

    Rows and columns are resampled independently, so a view is two matrices, and any crop costs
    one product on either side of the image. Where large images share one view, slicing and
    interpolating it costs less. The views are one for all images, or one for each. Outside of the
    image, a crop is zero.
    """
    augmented = _resample(images, views)
    if not any(height for _, _, height, _ in (view.cutout for view in views)):
        return augmented
    boxes = torch.tensor([view.cutout for view in views], device=images.device)
    return augmented.masked_fill(_bbox_mask(boxes, images.shape[-1])[:, None], 0)


def _resample(images: Tensor, views: Sequence[AugParams]) -> Tensor:
    size = images.shape[-1]
    if len(views) == 1 and size >= _SLICE_FROM and _is_inside(views[0].crop, size):
        return _crop_resize(images, views[0])
    numbers = torch.tensor([[*v.crop, v.flip, *v.shift] for v in views], dtype=torch.float64)
    top, left, height, width, flip, down, right = numbers.to(images.device).unbind(1)
    rows = _resampling_matrix(top, height, torch.zeros_like(flip), down, size).to(images.dtype)
    columns = _resampling_matrix(left, width, flip, right, size).to(images.dtype)
    if len(views) == 1:
        rows, columns = rows[0], columns[0]
    wide = (images.flatten(1, 2) @ columns.mT).unflatten(1, images.shape[1:3])
    return (wide.mT.flatten(1, 2) @ rows.mT).unflatten(1, images.shape[1:3]).mT


def _is_inside(crop: Box, size: int) -> bool:
    top, left, height, width = crop
    return min(top, left) >= 0 and max(top + height, left + width) <= size


def _crop_resize(images: Tensor, view: AugParams) -> Tensor:
    top, left, height, width = view.crop
    crop = images[:, :, top : top + height, left : left + width]
    resized = functional.interpolate(crop, size=images.shape[-2:], mode="bilinear")
    resized = resized.flip(-1) if view.flip else resized
    return torch.roll(resized, view.shift, dims=(-2, -1))


def _resampling_matrix(
    start: Tensor, length: Tensor, flip: Tensor, shift: Tensor, size: int
) -> Tensor:
    """Return matrices [n, size, size] that map one axis of an image to that axis of its view.

    Output pixel i, after undoing shift and mirroring, lies at (i + 1/2) length / size - 1/2 in the
    crop, and mixes the pixels around it by their distance: bilinear interpolation.
    """
    pixel = torch.arange(size, dtype=start.dtype, device=start.device)
    at = (pixel - shift[:, None]) % size
    at = torch.where(flip[:, None] > 0, size - 1 - at, at)
    source = (at + 0.5) * (length / size)[:, None] - 0.5
    source = start[:, None] + torch.minimum(source.clamp_min(0), length[:, None] - 1)
    return (1 - (source[:, :, None] - pixel).abs()).clamp_min(0)


# -- training on real images -----------------------------------------------------------------


@dataclass(frozen=True)
class TrainAugmentation:
    """Augmentation of real training batches, drawn from torch's global generator."""

    shift: int  # largest shift per axis in pixels, repeating the border
    crop_min: float = 1.0  # smallest area of a crop, as a fraction, in (0, 1]; 1: no crops
    flip: bool = False  # whether half of the views are mirrored
    per_image: bool = False  # whether each image has its own view, or a batch shares one

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images [N, 3, S, S]."""
        if self.crop_min == 1 and not self.flip and not self.per_image:
            return _random_shift(images, self.shift)
        count, size = len(images) if self.per_image else 1, images.shape[-1]
        crops = torch.tensor([0, 0, size, size]).repeat(count, 1)
        if self.crop_min < 1:
            draws = [sample_crop(size, self.crop_min, torch.default_generator) for _ in crops]
            crops = torch.tensor(draws)
        crops[:, :2] += torch.randint(-self.shift, self.shift + 1, (count, 2))
        flips = (torch.rand(count) < 0.5) & self.flip
        crops, flips = (value.to(images.device) for value in (crops, flips))
        return crop_and_flip(images, crops.expand(len(images), 4), flips.expand(len(images)))


def _random_shift(images: Tensor, most: int) -> Tensor:
    """Shift a batch by up to `most` pixels per axis, repeating the border."""
    if not most:
        return images
    size = images.shape[-1]
    top, left = torch.randint(0, 2 * most + 1, (2,)).tolist()
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    return padded[:, :, top : top + size, left : left + size]
