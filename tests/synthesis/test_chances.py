"""The expectation of the draws: against enumeration, and against many draws."""

from collections import Counter
from itertools import product
from math import isclose

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.synthesis.teacher_sampling import (
    SelectionProbs,
    drawn_sizes,
    sample_schedule,
    selection_probs,
)

POOL = ("a", "b", "c", "d", "e")


def recipe_with(**changes: object) -> Recipe:
    return load_recipe("prism", {"iterations": 60, "early_late_step": 0, **changes})


def enumerated(
    image_indices: int, p: float, candidates: int, may_be_empty: bool
) -> dict[int, float]:
    """Go through every way of filling the slots, one by one."""
    found: Counter[int] = Counter()
    for filled in product((True, False), repeat=image_indices):
        chance = 1.0
        for one in filled:
            chance *= p if one else 1 - p
        found[min(sum(filled), candidates)] += chance
    kept = {n: c for n, c in found.items() if (n or may_be_empty) and c > 0}
    return {n: c / sum(kept.values()) for n, c in kept.items()}


@given(
    image_indices=st.integers(1, 6),
    p=st.floats(0.05, 1.0),
    candidates=st.integers(1, 5),
    may_be_empty=st.booleans(),
)
def test_sizes_are_those_of_every_way_to_fill_slots(
    image_indices: int, p: float, candidates: int, may_be_empty: bool
) -> None:
    recipe = recipe_with(num_bn_slots=image_indices, bn_slot_prob=p)
    found = drawn_sizes(recipe, candidates, may_be_empty=may_be_empty)
    expected = enumerated(image_indices, p, candidates, may_be_empty)
    assert found.keys() == expected.keys()
    assert all(isclose(found[n], expected[n], abs_tol=1e-12) for n in found)


def simulated(recipe: Recipe, draws: int) -> SelectionProbs:
    """Average the steps of many real draws."""
    sizes: Counter[int] = Counter()
    counts: dict[str, Counter[str]] = {
        "aligned": Counter(),
        "gives_logits": Counter(),
        "runs": Counter(),
    }
    total = 0
    for number in range(draws):
        generator = torch.Generator().manual_seed(number)
        plan = sample_schedule(recipe, "a", POOL, generator)
        for step in range(recipe.iterations):
            bn_teachers, logit_teachers = plan.at(step), plan.logit_teachers_at(step)
            total += 1
            sizes[len(bn_teachers)] += 1
            counts["aligned"].update(bn_teachers)
            counts["gives_logits"].update(logit_teachers)
            counts["runs"].update({*bn_teachers, *logit_teachers})
    parts = [{k: v / total for k, v in count.items()} for count in counts.values()]
    return SelectionProbs({k: v / total for k, v in sizes.items()}, *parts)


def assert_close(found: dict[object, float], seen: dict[object, float], tolerance: float) -> None:
    for key in found.keys() | seen.keys():
        assert abs(found.get(key, 0.0) - seen.get(key, 0.0)) < tolerance, key


# 20,000 independent draws: five standard errors of a share are at most 5 * 0.5 / sqrt(20000).
@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 1},
        {"iterations": 1, "primary_in_bn": "never"},
        {"iterations": 1, "primary_in_bn": "candidate", "num_bn_slots": 2, "bn_slot_prob": 0.3},
        {"iterations": 1, "num_bn_slots": 9, "bn_slot_prob": 0.9},
        {"iterations": 1, "bn_subset_size": 2, "primary_in_bn": "never"},
        {"iterations": 1, "logits": "bn_teachers", "bn_subset_size": 2},
        {"iterations": 2, "selection": "intra", "resample_every": 1, "primary_in_bn": "never"},
        {"iterations": 5, "logits": "round_robin", "primary_in_bn": "candidate"},
    ],
)
def test_chances_are_what_many_draws_come_to(changes: dict[str, object]) -> None:
    recipe = recipe_with(**changes)
    found, seen = selection_probs(recipe, "a", POOL), simulated(recipe, 20_000)
    for name in ("sizes", "aligned", "gives_logits", "runs"):
        assert_close(getattr(found, name), getattr(seen, name), 0.018)


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": "all"},
        {"selection": "all", "primary_in_bn": "never"},
        {"selection": "fixed", "bn_fixed": ["c"]},
        {"selection": "round_robin", "primary_in_bn": "never"},
        {"selection": "round_robin", "logits": "round_robin", "primary_in_bn": "candidate"},
        {"selection": "round_robin", "logits": "bn_teachers", "iterations": 7},
    ],
)
def test_what_is_not_drawn_is_counted_step_by_step(changes: dict[str, object]) -> None:
    recipe = recipe_with(**changes)
    found, seen = selection_probs(recipe, "a", POOL), simulated(recipe, 1)
    for name in ("sizes", "aligned", "gives_logits", "runs"):
        assert_close(getattr(found, name), getattr(seen, name), 1e-12)


def test_the_published_draw_has_two_and_a_half_networks() -> None:
    found = selection_probs(load_recipe("prism"), "a", POOL)
    assert isclose(found.teachers, 2.5)
    assert isclose(found.networks, 2.5)
    assert found.aligned["a"] == 1.0
    assert isclose(found.aligned["b"], 1.5 / 4)
    # One network of 3 operations beside a primary of 2, in 37.5 % of the steps.
    flops = found.flops({"a": 2.0, "b": 3.0, "c": 0.0, "d": 0.0, "e": 0.0})
    assert isclose(sum(flops.values()), 2.0 + 3.0 * 0.375)


@settings(deadline=None)
@given(p=st.floats(0.01, 1.0), image_indices=st.integers(1, 8))
def test_every_distribution_adds_up(p: float, image_indices: int) -> None:
    found = selection_probs(
        recipe_with(num_bn_slots=image_indices, bn_slot_prob=p, primary_in_bn="never"), "a", POOL
    )
    assert isclose(sum(found.sizes.values()), 1.0)
    assert isclose(sum(found.aligned.values()), found.teachers)
    assert found.networks >= found.teachers
