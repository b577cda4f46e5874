"""Views of an epoch, and their replay."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from prism_nb.data.augment import (
    BatchAugParams,
    identity_params,
    render,
    sample_bbox,
    sample_epoch_params,
)

CPU = torch.device("cpu")


def views_of(
    count: int, *, seed: int = 0, mix: str = "cutmix", flip: bool = True
) -> BatchAugParams:
    generator = torch.Generator().manual_seed(seed)
    return sample_epoch_params(count, 16, crop_min=0.3, flip=flip, mix=mix, generator=generator)


def plain_view(images: torch.Tensor, views: BatchAugParams, row: int) -> torch.Tensor:
    """Crop by slicing and enlarge by interpolation, the way a reader would write it."""
    top, left, height, width = views.crop[row].tolist()
    crop = images[row : row + 1, :, top : top + height, left : left + width]
    large = functional.interpolate(crop, size=images.shape[-2:], mode="bilinear")[0]
    return large.flip(-1) if views.flip[row] else large


def test_a_view_without_mixing_is_the_enlarged_crop() -> None:
    images = torch.randn(12, 3, 16, 16)
    views = views_of(12, mix="none")
    shown = render(images, views, torch.arange(12))
    for row in range(12):
        # Away from the crop's border; there the grid sees the neighbours and a slice does not.
        inner = slice(3, -3)
        expected = plain_view(images, views, row)[:, inner, inner]
        assert torch.allclose(shown[row][:, inner, inner], expected, atol=1e-4)


def test_a_full_crop_is_the_image_itself() -> None:
    images = torch.randn(2, 3, 16, 16)
    whole = torch.tensor([[0, 0, 16, 16]] * 2, dtype=torch.int16)
    views = replace(identity_params(2, 16, CPU), crop=whole, flip=torch.tensor([False, True]))
    shown = render(images, views, torch.arange(2))
    assert torch.allclose(shown[0], images[0], atol=1e-5)
    assert torch.allclose(shown[1], images[1].flip(-1), atol=1e-5)


def test_cutmix_pastes_the_partners_view_into_the_box() -> None:
    images = torch.randn(8, 3, 16, 16)
    mixed = views_of(8)
    plain = replace(mixed, mix_bbox=torch.zeros_like(mixed.mix_bbox))
    shown, own = (render(images, views, torch.arange(8)) for views in (mixed, plain))
    for row in range(8):
        top, left, height, width = mixed.mix_bbox[row].tolist()
        expected = own[row].clone()
        other = own[int(mixed.mix_index[row])]
        region = (slice(None), slice(top, top + height), slice(left, left + width))
        expected[region] = other[region]
        assert torch.equal(shown[row], expected)


def test_a_rows_view_does_not_depend_on_the_batch_it_is_rendered_in() -> None:
    images, views = torch.randn(10, 3, 16, 16), views_of(10)
    whole = render(images, views, torch.arange(10))
    rows = torch.tensor([7, 2, 9])
    assert torch.equal(render(images, views, rows), whole[rows])
    assert torch.equal(render(images, views, torch.tensor([2])), whole[2:3])


def test_boxes_cover_half_of_the_image_at_most_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([sample_bbox(32, generator) for _ in range(3000)])
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    share = (height * width).float() / 32**2
    # Uniform areas average one half; clipping at the border takes some of it away.
    assert 0.25 < share.mean() < 0.45


def test_switches_of_the_views() -> None:
    assert not views_of(50, flip=False).flip.any()
    assert views_of(200).flip.float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert not views_of(50, mix="none").mix_bbox.any()
    assert sorted(views_of(50).mix_index.tolist()) == list(range(50))


def test_mixup_blends_the_partners_view_in() -> None:
    images = torch.randn(8, 3, 16, 16)
    mixed = views_of(8, mix="mixup")
    assert not mixed.mix_bbox.any()
    assert len(mixed.mix_weight.unique()) == 8
    plain = replace(mixed, mix_weight=torch.zeros(8))
    shown, own = (render(images, views, torch.arange(8)) for views in (mixed, plain))
    for row in range(8):
        ratio, other = mixed.mix_weight[row].item(), own[int(mixed.mix_index[row])]
        expected = (1 - ratio) * own[row].double() + ratio * other.double()
        assert torch.allclose(shown[row].double(), expected, atol=1e-6)


def test_the_share_of_the_partner_is_what_it_covers_or_its_weight() -> None:
    pasted, blended = views_of(40), views_of(40, mix="mixup")
    covered = [h * w / 256 for _, _, h, w in pasted.mix_bbox.tolist()]
    assert torch.allclose(pasted.mix_fraction(16), torch.tensor(covered))
    assert torch.equal(blended.mix_fraction(16), blended.mix_weight)
    assert not views_of(5, mix="none").mix_fraction(16).any()


def test_plain_views_show_images_as_they_are() -> None:
    images = torch.randn(7, 3, 16, 16)
    shown = render(images, identity_params(7, 16, CPU), torch.arange(7))
    assert torch.allclose(shown, images, atol=1e-5)
