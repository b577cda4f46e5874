"""Augmentations against plain slicing, interpolating, mirroring and rolling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import RandomResizedCrop

from prism_nb.core.device import seeded
from prism_nb.data.augment import (
    AugParams,
    BatchAugParams,
    TrainAugmentation,
    augment,
    join_last_one,
    render,
    sample_augmentation,
    sample_crop,
    sample_epoch_params,
)

CPU = torch.device("cpu")


def literal(image: Tensor, view: AugParams) -> Tensor:
    """Augment one image [3, S, S] the plain way."""
    size = image.shape[-1]
    top, left, height, width = view.crop
    crop = image[None, :, top : top + height, left : left + width]
    large = functional.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False)
    mirrored = large.flip(-1) if view.flip else large
    return torch.roll(mirrored, view.shift, dims=(-2, -1))[0]


# -- crops -----------------------------------------------------------------------------------


@given(size=st.integers(8, 300), crop_min=st.floats(0.01, 1), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_crops_lie_inside_the_image(size: int, crop_min: float, seed: int) -> None:
    top, left, height, width = sample_crop(size, crop_min, torch.Generator().manual_seed(seed))
    assert 0 < height <= size - top
    assert 0 < width <= size - left
    assert min(top, left) >= 0


def test_crops_are_distributed_like_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = np.array([sample_crop(224, 0.08, generator) for _ in range(5000)], dtype=float)
    torch.manual_seed(0)
    image = torch.empty(3, 224, 224)
    draws = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)]
    theirs = np.array(draws, dtype=float)
    for side in range(4):
        # The 1-in-a-million bound of the two-sample Kolmogorov-Smirnov statistic at this size.
        assert ks_2samp(mine[:, side], theirs[:, side]).pvalue > 1e-6
    assert ks_2samp(mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-6


# -- one epoch of a student ------------------------------------------------------------------


def params_of(
    count: int, *, seed: int = 0, mix: str = "cutmix", flip: bool = True
) -> BatchAugParams:
    generator = torch.Generator().manual_seed(seed)
    return sample_epoch_params(count, 16, crop_min=0.3, flip=flip, mix=mix, generator=generator)


def test_without_mixing_a_view_is_the_resized_crop() -> None:
    images, params = torch.randn(12, 3, 16, 16), params_of(12, mix="none")
    views = render(images, params, torch.arange(12))
    inner = slice(3, -3)  # at the crop's border, the grid has neighbours that a slice has not
    for row in range(12):
        crop = tuple(params.crop[row].tolist())
        expected = literal(images[row], AugParams(crop, bool(params.flip[row])))
        assert torch.allclose(views[row][:, inner, inner], expected[:, inner, inner], atol=1e-4)


def test_cutmix_pastes_the_partners_view_into_the_box() -> None:
    images, mixed = torch.randn(8, 3, 16, 16), params_of(8)
    plain = replace(mixed, mix_bbox=torch.zeros_like(mixed.mix_bbox))
    views, own = (render(images, params, torch.arange(8)) for params in (mixed, plain))
    for row in range(8):
        top, left, height, width = mixed.mix_bbox[row].tolist()
        region = (slice(None), slice(top, top + height), slice(left, left + width))
        expected = own[row].clone()
        expected[region] = own[int(mixed.mix_index[row])][region]
        assert torch.equal(views[row], expected)


def test_mixup_blends_the_partners_view_in() -> None:
    images, mixed = torch.randn(8, 3, 16, 16), params_of(8, mix="mixup")
    assert not mixed.mix_bbox.any()
    assert len(mixed.mix_weight.unique()) == 8
    plain = replace(mixed, mix_weight=torch.zeros(8))
    views, own = (render(images, params, torch.arange(8)) for params in (mixed, plain))
    for row in range(8):
        weight, other = mixed.mix_weight[row].item(), own[int(mixed.mix_index[row])]
        expected = (1 - weight) * own[row].double() + weight * other.double()
        assert torch.allclose(views[row].double(), expected, atol=1e-6)


def test_a_view_does_not_depend_on_its_batch() -> None:
    images, params = torch.randn(10, 3, 16, 16), params_of(10)
    whole = render(images, params, torch.arange(10))
    rows = torch.tensor([7, 2, 9])
    assert torch.equal(render(images, params, rows), whole[rows])
    assert torch.equal(render(images, params, torch.tensor([2])), whole[2:3])


def test_switches_of_an_epochs_params() -> None:
    assert not params_of(50, flip=False).flip.any()
    assert params_of(200).flip.float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert not params_of(50, mix="none").mix_bbox.any()
    assert sorted(params_of(50).mix_index.tolist()) == list(range(50))


def test_the_mixed_fraction_is_the_pasted_area_or_the_weight() -> None:
    pasted, blended = params_of(40), params_of(40, mix="mixup")
    covered = [h * w / 256 for _, _, h, w in pasted.mix_bbox.tolist()]
    assert torch.allclose(pasted.mix_fraction(16), torch.tensor(covered))
    assert torch.equal(blended.mix_fraction(16), blended.mix_weight)
    assert not params_of(5, mix="none").mix_fraction(16).any()


@pytest.mark.parametrize("count", [1, 2, 8, 9, 16, 17])
def test_no_batch_is_a_single_image_unless_the_set_is(count: int) -> None:
    parts = join_last_one(torch.arange(count).split(8))
    assert torch.equal(torch.cat(parts), torch.arange(count))
    assert count == 1 or min(map(len, parts)) > 1


# -- a step of synthesis ---------------------------------------------------------------------


@st.composite
def views_of(draw: st.DrawFn, size: int) -> AugParams:
    height, width = draw(st.integers(1, size)), draw(st.integers(1, size))
    top, left = draw(st.integers(0, size - height)), draw(st.integers(0, size - width))
    shift = draw(st.integers(0, 2 * size)), draw(st.integers(0, 2 * size))
    return AugParams((top, left, height, width), draw(st.booleans()), shift)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[AugParams]]:
    size, count = draw(st.integers(1, 17)), draw(st.integers(1, 4))
    return size, [draw(views_of(size)) for _ in range(count)]


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_augmenting_equals_the_plain_way(
    case: tuple[int, list[AugParams]], per_batch: bool
) -> None:
    size, views = case
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(len(views), 3, size, size, dtype=torch.float64, generator=generator)
    images.requires_grad_()
    onto = torch.randn(images.shape, dtype=torch.float64, generator=generator)
    if per_batch:
        views = views[:1]
    found = augment(images, views)
    each = views * len(images) if per_batch else views
    expected = torch.stack([literal(x, v) for x, v in zip(images, each, strict=True)])
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad((found * onto).sum(), images)
    (expected_gradient,) = torch.autograd.grad((expected * onto).sum(), images)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [32, 150])
def test_a_crop_beyond_the_image_is_zero_there_and_a_cutout_within(size: int) -> None:
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    view = AugParams((-3, 5, size, size), True, (0, 0), (4, 0, 2, 7))
    expected = torch.zeros_like(images)
    expected[..., 3:, : size - 5] = images[..., : size - 3, 5:]
    expected = expected.flip(-1)
    expected[..., 4:6, :7] = 0
    for views in ([view], [view, view]):
        assert torch.allclose(augment(images, views), expected, atol=1e-12)


def test_shifts_and_cutouts_are_those_of_dsa() -> None:
    generator = torch.Generator().manual_seed(0)
    options = {"crop_min": 1.0, "flip": False, "jitter": 0, "crop_pad": 0.125, "cutout": 0.5}
    views = [sample_augmentation(16, generator=generator, **options) for _ in range(2000)]
    assert {view.crop[0] for view in views} == {view.crop[1] for view in views} == {*range(-2, 3)}
    spans = {(view.cutout[0], view.cutout[2]) for view in views}  # top and height
    assert spans == {(max(0, c - 4), min(16, c + 4) - max(0, c - 4)) for c in range(17)}
    plain = sample_augmentation(
        16, crop_min=0.5, flip=True, jitter=2, generator=generator.manual_seed(1)
    )
    none = {"crop_pad": 0.0, "cutout": 0.0, "flip": True, "jitter": 2, "crop_min": 0.5}
    assert sample_augmentation(16, generator=generator.manual_seed(1), **none) == plain


@pytest.mark.parametrize(
    "view", [AugParams((5, 9, 100, 80), True, (3, 7)), AugParams((0, 0, 130, 130))]
)
def test_large_images_are_equal_alone_and_together(view: AugParams) -> None:
    images = torch.randn(2, 3, 130, 130, dtype=torch.float64, requires_grad=True)
    together = augment(images, [view])
    apart = augment(images, [view, view])
    assert torch.allclose(together, apart, rtol=0, atol=1e-12)
    weights = torch.randn_like(together)
    (one,) = torch.autograd.grad((together * weights).sum(), images)
    (other,) = torch.autograd.grad((apart * weights).sum(), images)
    assert torch.allclose(one, other, rtol=0, atol=1e-11)


# -- training batches ------------------------------------------------------------------------


def test_without_crops_and_flips_a_batch_is_shifted_alone() -> None:
    images = torch.randn(3, 3, 8, 8)
    with seeded(4, CPU):
        views, after = TrainAugmentation(2)(images), torch.rand(())
    with seeded(4, CPU):
        down, right = torch.randint(0, 5, (2,)).tolist()
        assert torch.equal(after, torch.rand(()))  # nothing else was sampled
    rows = [min(max(i + down - 2, 0), 7) for i in range(8)]
    columns = [min(max(j + right - 2, 0), 7) for j in range(8)]
    assert torch.equal(views, images[:, :, rows][:, :, :, columns])


def moves(image: Tensor, most: int) -> dict[tuple[int, int, bool], Tensor]:
    """Return every view that a shift and a flip can give of an image [3, S, S]."""
    size, found = image.shape[-1], {}
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            rows = [min(max(i + down, 0), size - 1) for i in range(size)]
            columns = [min(max(j + right, 0), size - 1) for j in range(size)]
            moved = image[:, rows][:, :, columns]
            found[down, right, False], found[down, right, True] = moved, moved.flip(-1)
    return found


@pytest.mark.parametrize("per_image", [False, True])
def test_shifts_and_flips_are_whole_pixels(per_image: bool) -> None:
    images = torch.randn(60, 3, 8, 8)
    with seeded(0, CPU):
        views = TrainAugmentation(2, flip=True, per_image=per_image)(images)
    found_views = []
    for image, view in zip(images, views, strict=True):
        fits = [k for k, m in moves(image, 2).items() if torch.allclose(m, view, atol=1e-5)]
        assert len(fits) == 1
        found_views += fits
    if per_image:
        assert (
            {key[0] for key in found_views} == {key[1] for key in found_views} == {-2, -1, 0, 1, 2}
        )
        assert 15 < sum(key[2] for key in found_views) < 45
    else:
        assert len(set(found_views)) == 1


def test_crops_have_the_area_asked_for() -> None:
    size = 32
    ramp = torch.arange(size, dtype=torch.float32).expand(3, size, size)
    both = torch.stack([ramp[0], ramp[0].T, torch.zeros(size, size)])
    with seeded(1, CPU):
        views = TrainAugmentation(0, crop_min=0.3, per_image=True)(both.expand(80, 3, size, size))
    middle = slice(4, -4)  # where no border is repeated
    wide = views[:, 0, :, middle].diff(dim=-1)
    high = views[:, 1, middle].diff(dim=-2)
    assert torch.allclose(wide, wide[:, :1, :1].expand_as(wide), atol=1e-4)
    widths, heights = wide[:, 0, 0] * size, high[:, 0, 0] * size
    areas = widths * heights / size**2
    assert torch.allclose(widths, widths.round(), atol=1e-2)
    assert 0.26 < areas.min() < 0.5
    assert areas.max() <= 1.001
    assert len(widths.round().unique()) > 5
