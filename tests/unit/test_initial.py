"""Initial images: the same for an image whatever the batches are, but for noise."""

import pytest
import torch

from prism_nb.data.digits import Digits
from prism_nb.plans.batches import Batch, class_wise, cross_class
from prism_nb.recipes import load_recipe
from prism_nb.synthesis.initial import initial_images

DIGITS = Digits(32)


def start(kind: str, batch: Batch, *, seed: int = 0, unit: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(unit)
    recipe = load_recipe("prism", {"init": kind})
    return initial_images(recipe, batch, DIGITS, seed=seed, generator=generator)


def test_noise_is_standard_normal_and_comes_from_the_unit() -> None:
    batch = Batch((0, 5), (0, 10))
    noise = start("noise", batch)
    assert noise.shape == (50, 3, 32, 32)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert torch.equal(noise, start("noise", batch))
    assert not torch.equal(noise, start("noise", batch, unit=1))


def test_real_images_come_in_file_order() -> None:
    images = start("real", Batch((2, 4), (3, 5)))
    places = [DIGITS.of_class("train", c)[slot] for slot in (2, 3) for c in (3, 4)]
    assert torch.equal(images, DIGITS.canonical(DIGITS.images("train", places)))


@pytest.mark.parametrize("kind", ["real", "real_random"])
def test_the_layout_changes_the_batches_but_not_the_images(kind: str) -> None:
    by_member = []
    for form in (cross_class, class_wise):
        images = {}
        for batch in form(10, 3, 10):
            images.update(zip(batch.members(), start(kind, batch), strict=True))
        by_member.append(images)
    assert by_member[0].keys() == by_member[1].keys()
    assert all(torch.equal(by_member[0][key], by_member[1][key]) for key in by_member[0])


def test_random_real_images_follow_the_runs_seed_and_repeat_none() -> None:
    batch = Batch((0, 8), (0, 1))
    images = start("real_random", batch)
    assert len({image.numpy().tobytes() for image in images}) == 8
    assert torch.equal(images, start("real_random", batch, unit=9))
    assert not torch.equal(images, start("real_random", batch, seed=1))
