"""Views by matrix products against slicing, interpolating, mirroring and rolling."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import load_recipe
from prism_nb.data.augment import AugParams, augment, sample_augmentation
from prism_nb.synthesis.loop import min_crop_area, sample_augmentations


def literal(image: Tensor, view: AugParams) -> Tensor:
    """Show one image [3, S, S] through a view, the plain way."""
    size = image.shape[-1]
    top, left, height, width = view.crop
    crop = image[None, :, top : top + height, left : left + width]
    large = functional.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False)
    mirrored = large.flip(-1) if view.flip else large
    return torch.roll(mirrored, view.shift, dims=(-2, -1))[0]


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
def test_views_equal_slicing_stretching_mirroring_and_rolling(
    case: tuple[int, list[AugParams]], per_batch: bool
) -> None:
    size, views = case
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(len(views), 3, size, size, dtype=torch.float64, generator=generator)
    images.requires_grad_()
    onto = torch.randn(images.shape, dtype=torch.float64, generator=generator)
    if per_batch:
        views = views[:1]
    seen = augment(images, views)
    each = views * len(images) if per_batch else views
    expected = torch.stack([literal(x, v) for x, v in zip(images, each, strict=True)])
    assert torch.allclose(seen, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad((seen * onto).sum(), images)
    (expected_gradient,) = torch.autograd.grad((expected * onto).sum(), images)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_views_are_the_identity(dtype: torch.dtype) -> None:
    images = torch.randn(3, 3, 32, 32, dtype=dtype)
    whole = AugParams((0, 0, 32, 32))
    for views in ([whole], [whole] * 3):
        seen = augment(images, views)
        assert torch.equal(seen, images)
        assert seen.dtype == dtype


def test_views_take_images_that_lie_in_memory_channels_last() -> None:
    images = torch.randn(2, 3, 16, 16)
    view = AugParams((3, 1, 9, 12), True, (5, 2))
    turned = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment(turned, [view]), augment(images, [view]))


@pytest.mark.parametrize(("kind", "count"), [("per_batch", 1), ("per_image", 5)])
def test_a_step_draws_one_view_or_one_for_each_image(kind: str, count: int) -> None:
    recipe = load_recipe(
        "prism", {"views": kind, "crop_schedule": "curriculum", "iterations": 10, "jitter": 3}
    )
    drawn = sample_augmentations(recipe, 7, (5, 32), torch.Generator().manual_seed(4))
    again = torch.Generator().manual_seed(4)
    floor = 0.08 + 0.92 * (1 + math.cos(0.7 * math.pi)) / 2
    assert min_crop_area(recipe, 7) == pytest.approx(floor)
    expected = [
        sample_augmentation(
            32, crop_min=min_crop_area(recipe, 7), flip=True, jitter=3, generator=again
        )
        for _ in range(count)
    ]
    assert drawn == expected
    assert len(set(drawn)) == count


@pytest.mark.parametrize(
    "view", [AugParams((5, 9, 100, 80), True, (3, 7)), AugParams((0, 0, 130, 130))]
)
def test_large_images_see_the_same_alone_and_together(view: AugParams) -> None:
    images = torch.randn(2, 3, 130, 130, dtype=torch.float64, requires_grad=True)
    together = augment(images, [view])
    apart = augment(images, [view, view])
    assert torch.allclose(together, apart, rtol=0, atol=1e-12)
    weights = torch.randn_like(together)
    (one,) = torch.autograd.grad((together * weights).sum(), images)
    (other,) = torch.autograd.grad((apart * weights).sum(), images)
    assert torch.allclose(one, other, rtol=0, atol=1e-11)
