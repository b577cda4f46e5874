"""Initial images: noise, real images, and those ranked by a teacher's loss."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from prism_nb.core.config import load_settings
from prism_nb.core.recipe import load_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.core.units import ImageBatch, image_batches, unit_seed
from prism_nb.data.augment import Box, sample_crop
from prism_nb.data.small import Digits
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis import ranking
from prism_nb.synthesis.init import (
    class_order,
    initial_images,
    initial_images_uint8,
    prepare_unit,
)
from prism_nb.synthesis.ranking import Candidates
from tests.helpers.teachers import teacher_of

DIGITS = Digits(32)
DIGITS_8 = Digits(8)


def test_real_images_come_in_file_order() -> None:
    recipe, generator = load_recipe("prism", {"init": "real"}), torch.Generator()
    batch = ImageBatch((2, 4), (3, 5))
    order = partial(class_order, recipe, DIGITS, None, 0, 4)
    images = initial_images(recipe, batch, DIGITS, order, seed=0, generator=generator)
    indices = [
        DIGITS.class_indices("train", c)[image_index] for image_index in (2, 3) for c in (3, 4)
    ]
    assert torch.equal(images, DIGITS.normalize(DIGITS.images("train", indices)))


# -- scored ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer() -> Teacher:
    """A random network whose opinions are strong, so that no two images are equally hard."""
    teacher = teacher_of("test_byobnet")
    with torch.no_grad():
        teacher.network.head.fc.weight.mul_(2000)
    return teacher


def scored(batch: ImageBatch, scorer: Teacher, *, seed: int = 0, **changes: object) -> Tensor:
    recipe = load_recipe("prism", changes)
    generator = torch.Generator().manual_seed(0)
    order = partial(class_order, recipe, DIGITS, scorer if recipe.needs_scorer else None, seed, 9)
    return initial_images(recipe, batch, DIGITS, order, seed=seed, generator=generator)


def difficulty(scorer: Teacher, image: Tensor, class_index: int) -> float:
    """Return the cross-entropy of one canonical image [3, S, S]."""
    with torch.no_grad():
        logits = scorer(image[None])[0].double()
    return (logits.exp().sum().log() - logits[class_index]).item()


def real(class_index: int) -> list[Tensor]:
    indices = DIGITS.class_indices("train", class_index).tolist()
    return list(DIGITS.normalize(DIGITS.images("train", indices)))


def test_median_images_stand_in_the_order_of_their_distance_from_the_middle(
    scorer: Teacher,
) -> None:
    for c in (2, 7):
        images = sorted(real(c), key=lambda image: difficulty(scorer, image, c))
        easier, harder = images[: (len(images) + 1) // 2], images[(len(images) + 1) // 2 :]
        expected = [easier.pop()] if len(images) % 2 else []
        while easier:  # outward in steps, the easier one of two that are equally far first
            expected += [easier.pop(), harder.pop(0)]
        found = scored(ImageBatch((0, len(images)), (c, c + 1)), scorer, init="real_median")
        assert torch.equal(found, torch.stack(expected))


def test_no_more_images_are_judged_than_asked_for(scorer: Teacher) -> None:
    ranked, again, other = (
        ranking.rank_images.__wrapped__(Candidates(DIGITS, scorer, 4, 20, seed), "real_median", 9)
        for seed in (0, 0, 1)
    )
    whole = DIGITS.class_indices("train", 4).tolist()
    assert len(ranked) == len(set(ranked)) == 20
    assert set(ranked) < set(whole)
    assert set(ranked) != set(whole[:20])
    assert ranked == again
    assert set(ranked) != set(other)


def shown(image: Tensor, box: Box, side: int) -> Tensor:
    """Cut a square out of [3, S, S], enlarge it, and bring it to a side."""
    top, left, height, width = box
    crop = image[None, :, top : top + height, left : left + width]
    whole = functional.interpolate(crop, size=(32, 32), mode="bilinear")
    if side == 32:
        return whole[0]
    return functional.interpolate(whole, size=(side, side), mode="bilinear", antialias=True)[0]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Box]]:
    """Note every crop that is drawn."""
    boxes: list[Box] = []

    def noting(size: int, crop_min: float, *args: object, **kwargs: object) -> Box:
        assert crop_min == 0.2
        boxes.append(sample_crop(size, crop_min, *args, **kwargs))
        return boxes[-1]

    monkeypatch.setattr(ranking, "sample_crop", noting)
    ranking.lowest_loss_crops.cache_clear()
    yield boxes
    ranking.lowest_loss_crops.cache_clear()


@pytest.mark.parametrize("grid", [1, 2])
def test_patches_are_the_easiest_of_the_best_crops_of_each_image(
    grid: int, drawn: list[Box], scorer: Teacher
) -> None:
    c, side, ipc = 3, 32 // grid, 4
    found = scored(
        ImageBatch((0, ipc), (c, c + 1)),
        scorer,
        init="patches",
        crops_per_image=3,
        mosaic_grid=grid,
        crop_min=0.2,
    )
    images = real(c)
    assert len(drawn) == 3 * len(images)
    assert all(height == width for _, _, height, width in drawn)
    best: list[tuple[float, Tensor]] = []
    for place, image in enumerate(images):
        crops = [shown(image, box, side) for box in drawn[3 * place : 3 * place + 3]]
        large = [
            x if grid == 1 else functional.interpolate(x[None], size=(32, 32), mode="bilinear")[0]
            for x in crops
        ]
        losses = [difficulty(scorer, x, c) for x in large]
        easiest = min(range(3), key=lambda n: losses[n])
        best.append((losses[easiest], crops[easiest]))
    best.sort(key=lambda pair: pair[0])
    tiles = [crop for _, crop in best]  # one of each image, so that none comes twice
    for k in range(ipc):
        four = tiles[k * grid**2 : (k + 1) * grid**2]
        for place, tile in enumerate(four):  # in reading order
            row, column = divmod(place, grid)
            top, left = row * side, column * side
            part = found[k, :, top : top + side, left : left + side]
            assert torch.allclose(part, tile, atol=1e-5)


def test_mosaics_are_made_of_the_whole_images_of_lowest_loss(scorer: Teacher) -> None:
    found = scored(ImageBatch((0, 3), (5, 6)), scorer, init="mosaic", mosaic_grid=2)
    ranked = sorted(real(5), key=lambda image: difficulty(scorer, image, 5))
    for k, image in enumerate(found):
        for place, tile in enumerate(ranked[4 * k : 4 * k + 4]):
            top, left = 16 * (place // 2), 16 * (place % 2)
            part = image[:, top : top + 16, left : left + 16]
            assert torch.allclose(part, shown(tile, (0, 0, 32, 32), 16), atol=1e-5)


def test_large_images_are_made_of_four_crops_and_small_ones_of_one() -> None:
    recipe = load_recipe("rded")
    assert [recipe.grid(size) for size in (32, 64, 127, 128, 224)] == [1, 1, 1, 2, 2]
    assert [recipe.real_per_image(size) for size in (64, 224)] == [1, 4]
    assert load_recipe("rded", {"mosaic_grid": 3}).real_per_image(32) == 9
    assert load_recipe("delt").real_per_image(224) == 1
    assert load_recipe("sre2l").real_per_image(224) == 0


_KINDS = ("real", "real_random", "real_median", "patches", "mosaic")
_CLASSES, _MOST = 4, 6


@pytest.fixture(scope="module")
def whole(scorer: Teacher) -> dict[str, dict[tuple[int, int], Tensor]]:
    """Every image of every kind, made in one batch."""
    batch = ImageBatch((0, _MOST), (0, _CLASSES))
    made = {kind: scored(batch, scorer, **few(kind)) for kind in _KINDS}
    return {kind: dict(zip(batch.members(), made[kind], strict=True)) for kind in _KINDS}


def few(kind: str) -> dict[str, object]:
    return {"init": kind, "max_scored_images": 30, "crops_per_image": 2, "mosaic_grid": 2}


@given(
    kind=st.sampled_from(_KINDS),
    form=st.sampled_from(["cross_class", "class_wise", "class_major"]),
    ipc=st.integers(1, _MOST),
    batch_size=st.integers(1, 30),
)
@settings(max_examples=40, deadline=None)
def test_a_slot_is_the_same_image_whatever_the_layout_and_ipc(
    whole: dict[str, dict[tuple[int, int], Tensor]],
    scorer: Teacher,
    kind: str,
    form: str,
    ipc: int,
    batch_size: int,
) -> None:
    for batch in image_batches(form, _CLASSES, ipc, batch_size):
        images = scored(batch, scorer, **few(kind))
        for member, image in zip(batch.members(), images, strict=True):
            # The same to the last bits: a product of a larger batch may sum in another order.
            assert torch.allclose(image, whole[kind][member], atol=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_no_two_slots_of_a_class_are_the_same_image(
    kind: str, whole: dict[str, dict[tuple[int, int], Tensor]]
) -> None:
    assert len({image.numpy().tobytes() for image in whole[kind].values()}) == _CLASSES * _MOST


# -- units -------------------------------------------------------------------------------------


def digits_run(folder: Path, init_kind: str, **changes: Any) -> Run:
    recipe = {"init": init_kind, "iterations": 4}
    wanted = {"image_size": 8, "methods": ["sre2l"], "ipc": 3, "batch_size": 20, "recipe": recipe}
    return Run.create(folder / "r", load_settings("digits_quick", {**wanted, **changes}))


@pytest.mark.parametrize("kind", ["noise", "real", "real_random"])
def test_initial_images_can_be_made_again_one_by_one(tmp_path: Path, kind: str) -> None:
    run = digits_run(tmp_path, kind)
    dataset = DIGITS_8
    whole: dict[tuple[int, int], Tensor] = {}
    for unit in method_units(run, "sre2l", 10):
        whole |= dict(zip(batch_of(unit).members(), prepare_unit(run, unit).images, strict=True))
    assert len(whole) == 30
    wanted = [(7, 2), (0, 0), (7, 1), (3, 2)]  # across units, and not in their order
    shown = initial_images_uint8(run, "sre2l", wanted)
    for pixels, member in zip(shown, wanted, strict=True):
        std = torch.tensor(dataset.std).view(3, 1, 1)
        levels = whole[member] * std + torch.tensor(dataset.mean).view(3, 1, 1)
        assert torch.equal(pixels.float(), (levels * 255).round().clamp(0, 255))


def test_noise_comes_from_the_units_seed_and_its_generator_goes_on(tmp_path: Path) -> None:
    run = digits_run(tmp_path, "noise")
    (first, *_) = method_units(run, "sre2l", 10)
    batch, found = batch_of(first), prepare_unit(run, first)
    key = (*batch.image_indices, *batch.classes)
    assert found.seed == unit_seed(run.settings.replicate_seed, "synthesis", "sre2l", *key)
    generator = torch.Generator().manual_seed(found.seed)
    drawn = torch.randn(len(batch.members()), 3, 8, 8, generator=generator)
    assert torch.equal(found.images, drawn)
    assert torch.equal(torch.rand(5, generator=found.generator), torch.rand(5, generator=generator))
