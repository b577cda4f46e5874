"""Groups of image slots that join one optimisation late (DELT)."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.core.units import ImageBatch, class_major, cross_class
from prism_nb.data.augment import sample_augmentation
from prism_nb.synthesis.loop import recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from tests.helpers.teachers import teacher_of
from tests.synthesis.test_synthesis import literal_objective, objective_of, recipe_of, seen_through

NAMES = ("test_resnet", "test_byobnet")
BOTH = TeacherSchedule(100, (NAMES,), NAMES[:1])
BOUND = 1.5
BOUNDS = (torch.full((3, 1, 1), -BOUND), torch.full((3, 1, 1), BOUND))


def literal_recover(initial: Tensor, joins: list[int], recipe: Recipe, r_bn: float) -> Tensor:
    """Optimise image by image: an Adam for each, one cosine for all."""
    primary, other = (teacher_of(name, double=True) for name in NAMES)
    generator = torch.Generator().manual_seed(0)
    images = [image.clone() for image in initial]
    first: list[Tensor | float] = [0.0] * len(images)
    second: list[Tensor | float] = [0.0] * len(images)
    for step in range(recipe.iterations):
        present = [n for n, begin in enumerate(joins) if begin <= step]
        batch = torch.stack([images[n] for n in present]).requires_grad_()

        def shown(x: Tensor) -> Tensor:
            view = sample_augmentation(32, crop_min=0.3, flip=True, jitter=4, generator=generator)
            return seen_through(view, x)

        if recipe.views == "per_batch":
            seen = shown(batch)
        else:
            seen = torch.cat([shown(batch[n : n + 1]) for n in range(len(present))])
        value = literal_objective(seen, primary, [primary, other], r_bn)
        (gradient,) = torch.autograd.grad(value, batch)
        lr = recipe.lr * (1 + math.cos(math.pi * step / recipe.iterations)) / 2
        for place, n in enumerate(present):
            age = step - joins[n] + 1
            first[n] = 0.5 * first[n] + 0.5 * gradient[place]
            second[n] = 0.9 * second[n] + 0.1 * gradient[place] ** 2
            root = (second[n] / (1 - 0.9**age)).sqrt() + 1e-8
            moved = images[n] - lr * first[n] / (1 - 0.5**age) / root
            images[n] = moved.clamp(-BOUND, BOUND)
    return torch.stack(images)


@pytest.mark.parametrize("views", ["per_batch", "per_image"])
@pytest.mark.parametrize("joins", [[0, 0, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_recover_is_one_adam_per_group_under_one_cosine(views: str, joins: list[int]) -> None:
    recipe = recipe_of(iterations=5, crop_min=0.3, flip=True, jitter=4, views=views)
    torch.manual_seed(2)
    initial = torch.randn(4, 3, 32, 32, dtype=torch.float64).clamp(-BOUND, BOUND)
    primary, other = (teacher_of(name, double=True) for name in NAMES)
    images = recover(
        initial,
        torch.tensor([3, 1, 4, 1]),
        gradient=MicroBatchedBackward(objective_of(recipe, primary, other)),
        draws=BOTH,
        recipe=recipe,
        bounds=BOUNDS,
        generator=torch.Generator().manual_seed(0),
        on_step=lambda step, losses: None,
        joins=joins,
    )
    assert torch.allclose(images, literal_recover(initial, joins, recipe, 0.3), atol=1e-8)


def test_images_that_have_not_joined_stay_as_they_began_and_are_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_of(iterations=8)
    objective = objective_of(recipe, *(teacher_of(name) for name in NAMES))
    seen: list[tuple[int, int, int]] = []
    honest = Objective.priors

    def counted(self: Objective, images: Tensor, view: Tensor, labels: Tensor) -> dict[str, Tensor]:
        seen.append((len(images), len(view), len(labels)))
        return honest(self, images, view, labels)

    monkeypatch.setattr(Objective, "priors", counted)
    initial, joins = torch.randn(6, 3, 32, 32).clamp(-1, 1), [0, 0, 3, 3, 6, 8]
    images = recover(
        initial,
        torch.arange(6),
        gradient=MicroBatchedBackward(objective),
        draws=BOTH,
        recipe=recipe,
        bounds=BOUNDS,
        generator=torch.Generator().manual_seed(0),
        on_step=lambda step, losses: None,
        joins=joins,
    )
    assert seen == [(n, n, n) for n in (2, 2, 2, 4, 4, 4, 5, 5)]
    assert ((images[:5] - initial[:5]).flatten(1).abs().amax(1) > 0).all()
    assert torch.equal(images[5], initial[5])


def test_groups_of_the_published_delt_join_every_500_steps() -> None:
    recipe = load_recipe("delt")
    assert recipe.iterations == 4000
    assert recipe.early_late_step == 0
    assert [recipe.start_step(image_index, 8) for image_index in range(8)] == [
        500 * g for g in range(8)
    ]
    assert [4000 - recipe.start_step(image_index, 16) for image_index in (0, 1, 2, 14, 15)] == [
        4000,
        4000,
        3500,
        500,
        500,
    ]
    assert [load_recipe("prism").start_step(image_index, 10) for image_index in (0, 9)] == [0, 0]


@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_slots_are_cut_into_groups_in_order_as_equal_as_can_be(
    ipc: int, groups: int, step: int
) -> None:
    recipe = load_recipe("delt", {"delt_groups": groups, "delt_start_gap": step})
    joins = [recipe.start_step(image_index, ipc) for image_index in range(ipc)]
    assert joins[0] == 0
    assert joins == sorted(joins)
    assert max(joins) <= step * (groups - 1)
    sizes = Counter(joins).values()
    assert len(sizes) == min(groups, ipc)
    assert max(sizes) - min(sizes) <= 1
    assert all(begin % step == 0 for begin in joins)


@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_within_a_batch_the_groups_stand_in_the_order_in_which_they_join(
    classes: int, ipc: int, batch_size: int
) -> None:
    recipe = load_recipe("delt")
    for form in (class_major, cross_class):
        for batch in form(classes, ipc, batch_size):
            joins = [recipe.start_step(image_index, ipc) for _, image_index in batch.members()]
            assert joins == sorted(joins)


def test_a_batch_that_joins_late_as_a_whole_waits_for_its_first_images() -> None:
    recipe = recipe_of(iterations=4, delt_start_gap=2, delt_groups=2)
    batch = ImageBatch((1, 2), (0, 4))  # cross-class: one slot, the later one of two
    joins = [recipe.start_step(image_index, 2) for _, image_index in batch.members()]
    assert joins == [2] * 4
    initial = torch.randn(4, 3, 32, 32, dtype=torch.float64).clamp(-BOUND, BOUND)
    images = recover(
        initial,
        torch.tensor([3, 1, 4, 1]),
        gradient=MicroBatchedBackward(
            objective_of(recipe, *(teacher_of(name, double=True) for name in NAMES))
        ),
        draws=BOTH,
        recipe=recipe,
        bounds=BOUNDS,
        generator=torch.Generator().manual_seed(0),
        on_step=lambda step, losses: None,
        joins=joins,
    )
    assert ((images - initial).flatten(1).abs().amax(1) > 0).all()


def test_joining_that_leaves_a_slot_no_steps_is_refused() -> None:
    own = {"iterations": 700, "delt_start_gap": 100}
    changes = {"methods": ["delt"], "recipes": {"delt": own}, "ipc": 10}
    load_settings("digits", {**changes, "recipes": {"delt": {**own, "iterations": 701}}})
    with pytest.raises(UsageError, match="method delt: image slot 9 would get 0 steps"):
        load_settings("digits", changes)
    load_settings("digits", {**changes, "recipes": {"delt": {**own, "delt_groups": 7}}})


def test_slots_that_join_late_and_slots_with_units_of_their_own_contradict_each_other() -> None:
    own = {"early_late_step": 10, "delt_start_gap": 10, "iterations": 4000}
    with pytest.raises(UsageError, match="method delt: early_late_step gives each slot a unit"):
        load_settings("digits", {"methods": ["delt"], "recipes": {"delt": own}})
