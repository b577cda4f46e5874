"""Views, their replay, the ensemble and the label files."""

import pytest
import torch
from test_teachers import teacher_of
from torch.nn import functional

from prism_nb.artifacts.labels import EpochLabels, has_epoch, label_path, load_epoch, save_epoch
from prism_nb.artifacts.views import Views, draw_box, draw_views, epoch_views, render
from prism_nb.errors import PrismError
from prism_nb.labels.ensemble import norm_balanced_mean
from prism_nb.labels.work import label_epoch
from prism_nb.run import Run

CPU = torch.device("cpu")


def views_of(count: int, *, seed: int = 0, mix: str = "cutmix", flip: bool = True) -> Views:
    generator = torch.Generator().manual_seed(seed)
    return draw_views(count, 16, crop_min=0.3, flip=flip, mix=mix, generator=generator)


def plain_view(images: torch.Tensor, views: Views, row: int) -> torch.Tensor:
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
    nothing = torch.zeros(2, 4, dtype=torch.int16)
    views = Views(whole, torch.tensor([False, True]), torch.arange(2, dtype=torch.int32), nothing)
    shown = render(images, views, torch.arange(2))
    assert torch.allclose(shown[0], images[0], atol=1e-5)
    assert torch.allclose(shown[1], images[1].flip(-1), atol=1e-5)


def test_cutmix_pastes_the_partners_view_into_the_box() -> None:
    images = torch.randn(8, 3, 16, 16)
    mixed = views_of(8)
    plain = Views(mixed.crop, mixed.flip, mixed.partner, torch.zeros_like(mixed.box))
    shown, own = (render(images, views, torch.arange(8)) for views in (mixed, plain))
    for row in range(8):
        top, left, height, width = mixed.box[row].tolist()
        expected = own[row].clone()
        other = own[int(mixed.partner[row])]
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
    boxes = torch.tensor([draw_box(32, generator) for _ in range(3000)])
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
    assert not views_of(50, mix="none").box.any()
    assert sorted(views_of(50).partner.tolist()) == list(range(50))


def test_views_survive_the_file_exactly(run: Run) -> None:
    views = views_of(6)
    labels = EpochLabels(views, torch.randn(6, 10))
    save_epoch(run, "prism", 3, labels, binding="b")
    read = load_epoch(run, "prism", 3, CPU)
    for name, value in vars(views).items():
        assert torch.equal(getattr(read.views, name), value)
    assert read.logits.dtype == torch.float16
    assert torch.allclose(read.logits.float(), labels.logits, rtol=1e-3, atol=1e-3)


def test_an_epoch_counts_only_whole_and_of_its_binding(run: Run) -> None:
    save_epoch(run, "prism", 0, EpochLabels(views_of(6), torch.randn(6, 10)), binding="b")
    assert has_epoch(run, "prism", 0, binding="b")
    assert not has_epoch(run, "prism", 0, binding="other")
    assert not has_epoch(run, "prism", 1, binding="b")
    path = run.file(label_path("prism", 0))
    path.write_bytes(path.read_bytes()[:-100])
    assert not has_epoch(run, "prism", 0, binding="b")
    with pytest.raises(PrismError, match="epoch_0000.*cannot be read"):
        load_epoch(run, "prism", 0, CPU)


def test_the_ensemble_balances_norms_and_averages() -> None:
    torch.manual_seed(0)
    blocks = [torch.randn(5, 4, dtype=torch.float64) * scale for scale in (1.0, 7.0, 0.2)]
    norms = [sum(value**2 for value in block.flatten().tolist()) ** 0.5 for block in blocks]
    mean_norm = sum(norms) / 3
    expected = sum(b / n * mean_norm for b, n in zip(blocks, norms, strict=True)) / 3
    assert torch.allclose(norm_balanced_mean(blocks), expected, rtol=1e-12)


def test_one_teacher_alone_is_left_as_it_is() -> None:
    block = torch.randn(5, 4)
    assert torch.allclose(norm_balanced_mean([block]), block, rtol=1e-6)


def test_an_epoch_with_one_flipped_bit_does_not_count(run: Run) -> None:
    save_epoch(run, "prism", 0, EpochLabels(views_of(6), torch.randn(6, 10)), binding="b")
    path = run.file(label_path("prism", 0))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    assert not has_epoch(run, "prism", 0, binding="b")


def test_equal_labels_are_equal_files(run: Run) -> None:
    labels = EpochLabels(views_of(6), torch.ones(6, 10))
    path, contents = run.file(label_path("prism", 0)), set()
    for _ in range(20):
        save_epoch(run, "prism", 0, labels, binding="b")
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_labels_of_half_precision_differ_a_little_and_are_kept_in_full(run: Run) -> None:
    teacher = teacher_of("test_resnet")
    kinds: list[torch.dtype] = []
    teacher.network.layer1.register_forward_pre_hook(lambda _, given: kinds.append(given[0].dtype))
    torch.manual_seed(0)
    images = torch.randn(6, 3, 32, 32)
    views = epoch_views(run.settings, 6, 0, torch.device("cpu"))
    full, half = (
        label_epoch(images, [teacher], views, precision=precision).logits
        for precision in ("fp32", "bf16")
    )
    assert kinds == [torch.float32, torch.bfloat16]
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.05 * full.norm()
