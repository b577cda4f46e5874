"""The optimization of images against a literal loop."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.core.units import image_batches
from prism_nb.data.augment import augment, sample_augmentation
from prism_nb.synthesis.loop import min_crop_area, recover
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from tests.helpers.objectives import (
    BOUND,
    NAMES,
    initial_of,
    literal_objective,
    optimizer_of,
    prism,
)
from tests.helpers.teachers import teacher_of


def literal_recover(initial: Tensor, start_steps: list[int], recipe: Recipe) -> Tensor:
    """Optimize image by image: an Adam for each, one cosine for all."""
    primary, other = (teacher_of(name, double=True) for name in NAMES)
    generator = torch.Generator().manual_seed(0)
    images = [image.clone() for image in initial]
    first: list[Tensor | float] = [0.0] * len(images)
    second: list[Tensor | float] = [0.0] * len(images)
    for step in range(recipe.iterations):
        present = [n for n, start in enumerate(start_steps) if start <= step]
        batch = torch.stack([images[n] for n in present]).requires_grad_()

        def augmented(x: Tensor) -> Tensor:
            params = sample_augmentation(32, crop_min=0.3, flip=True, jitter=4, generator=generator)
            return augment(x, [params])

        if recipe.views == "per_batch":
            seen = augmented(batch)
        else:
            seen = torch.cat([augmented(batch[n : n + 1]) for n in range(len(present))])
        value = literal_objective(seen, primary, [primary, other], 0.3)
        (gradient,) = torch.autograd.grad(value, batch)
        lr = recipe.lr * (1 + math.cos(math.pi * step / recipe.iterations)) / 2
        for index, n in enumerate(present):
            age = step - start_steps[n] + 1
            first[n] = 0.5 * first[n] + 0.5 * gradient[index]
            second[n] = 0.9 * second[n] + 0.1 * gradient[index] ** 2
            root = (second[n] / (1 - 0.9**age)).sqrt() + 1e-8
            moved = images[n] - lr * first[n] / (1 - 0.5**age) / root
            images[n] = moved.clamp(-BOUND, BOUND)
    return torch.stack(images)


@pytest.mark.parametrize("views", ["per_batch", "per_image"])
@pytest.mark.parametrize("start_steps", [[0, 0, 0, 0], [0, 0, 2, 3], [0, 1, 2, 3]])
def test_recover_is_adam_with_a_cosine_and_a_clamp(views: str, start_steps: list[int]) -> None:
    recipe = prism(iterations=5, crop_min=0.3, flip=True, jitter=4, views=views)
    initial = initial_of()
    images = recover(optimizer_of(recipe, initial, start_steps=start_steps))
    assert torch.equal(initial, initial_of())
    assert torch.allclose(images, literal_recover(initial, start_steps, recipe), atol=1e-8)
    assert images.abs().max() == BOUND


def test_measuring_gradients_changes_no_image() -> None:
    recipe = prism(iterations=4, crop_min=0.3, flip=True, jitter=4, tv_l1=0.1)
    starts, found = [0, 0, 2, 3], list[dict[str, list[Tensor]]]()
    plain = recover(optimizer_of(recipe, initial_of(), start_steps=starts))
    measured = optimizer_of(recipe, initial_of(), start_steps=starts)
    found.append(dict(measured.gradients()))
    last = recipe.iterations
    callback = lambda o, _: found.append(dict(o.gradients())) if o.step < last else None  # noqa: E731
    assert torch.equal(recover(measured, [callback]), plain)
    assert len(found) == 4
    assert found[0].keys() == {"logit/test_resnet", "bn/test_resnet", "bn/test_byobnet"}
    assert all(part.any() for each in found for parts in each.values() for part in parts)


def test_a_batch_that_starts_late_skips_the_steps_before() -> None:
    optimizer = optimizer_of(prism(iterations=4), initial_of(), start_steps=[2] * 4)
    steps: list[int] = []
    recover(optimizer, [lambda found, losses: steps.append(found.step)])
    assert steps == [3, 4]


def test_groups_of_teachers_take_turns() -> None:
    schedule = TeacherSchedule(2, (("test_resnet",), ("test_byobnet",)), ("test_resnet",))
    optimizer = optimizer_of(prism(iterations=6), initial_of().float(), schedule=schedule)
    seen: list[set[str]] = []
    recover(optimizer, [lambda _, losses: seen.append({n for n in losses if n[:3] == "bn/"})])
    assert seen == [{"bn/test_resnet"}] * 2 + [{"bn/test_byobnet"}] * 2 + [{"bn/test_resnet"}] * 2


@pytest.mark.parametrize("schedule", ["fixed", "curriculum"])
def test_crop_curriculum_falls_from_one_to_the_floor(schedule: str) -> None:
    recipe = prism(iterations=4000, crop_min=0.08, crop_schedule=schedule)
    for step in (0, 1, 1000, 2000, 3999):
        falling = 0.08 + 0.92 * (1 + math.cos(math.pi * step / 4000)) / 2
        expected = 0.08 if schedule == "fixed" else falling
        assert min_crop_area(recipe, step) == pytest.approx(expected)


def test_delt_groups_start_every_500_steps() -> None:
    recipe = load_recipe("delt")
    assert (recipe.iterations, recipe.early_late_step) == (4000, 0)
    assert [recipe.start_step(index, 8) for index in range(8)] == [500 * g for g in range(8)]
    starts = [recipe.start_step(index, 16) for index in (0, 1, 2, 14, 15)]
    assert starts == [0, 0, 500, 3500, 3500]
    assert [load_recipe("prism").start_step(index, 10) for index in (0, 9)] == [0, 0]


@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 60), st.data())
@settings(max_examples=100, deadline=None)
def test_delt_groups_are_of_equal_size_and_in_the_order_of_a_batch(
    ipc: int, groups: int, batch_size: int, data: st.DataObject
) -> None:
    gap, classes = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 12))
    recipe = load_recipe("delt", {"delt_groups": groups, "delt_start_gap": gap})
    sizes = Counter(recipe.start_step(index, ipc) for index in range(ipc))
    assert min(sizes) == 0
    assert len(sizes) == min(groups, ipc)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for form in ("class_major", "cross_class"):
        for batch in image_batches(form, classes, ipc, batch_size):
            starts = [recipe.start_step(index, ipc) for _, index in batch.members()]
            assert starts == sorted(starts)
