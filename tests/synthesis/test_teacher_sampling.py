"""PRISM's draw of teachers: frequencies, groups and schedules."""

import math
from collections import Counter

import pytest
from hypothesis import assume, given, settings, strategies
from torch import Generator

from prism_nb.core.config import load_settings
from prism_nb.core.recipe import TeacherPool, load_recipe
from prism_nb.core.units import ImageBatch
from prism_nb.synthesis.teacher_sampling import (
    TeacherSchedule,
    sample_schedule,
    teacher_schedule,
)

POOL = ("a", "b", "c", "d", "e")
PUBLISHED = {0: 0.125, 1: 0.375, 2: 0.375, 3: 0.125}  # BN teachers besides the primary


def draw(*, seed: int = 0, **changes: object) -> TeacherSchedule:
    values = {"iterations": 8000, "resample_every": 1, "selection": "intra", **changes}
    generator = Generator().manual_seed(seed)
    return sample_schedule(load_recipe("prism", values), TeacherPool("a", POOL), generator)


def assert_binomial(count: int, n: int, p: float) -> None:
    """Allow five standard deviations: wrong once in a million seeds."""
    assert abs(count / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_group_sizes_have_the_published_distribution() -> None:
    groups = draw().bn_teachers
    assert all(group[0] == "a" for group in groups)
    sizes = Counter(len(group) - 1 for group in groups)
    for size, share in PUBLISHED.items():
        assert_binomial(sizes[size], 8000, share)


def test_every_candidate_is_drawn_equally_often() -> None:
    often = Counter(name for group in draw().bn_teachers for name in group[1:])
    for name in POOL[1:]:  # 1.5 of four candidates on average
        assert_binomial(often[name], 8000, 0.375)


def test_every_subset_of_an_exact_size_is_drawn_equally_often() -> None:
    groups = draw(bn_subset_size=2, primary_in_bn="candidate").bn_teachers
    often = Counter(frozenset(group) for group in groups)
    assert len(often) == 10
    for count in often.values():
        assert_binomial(count, 8000, 0.1)


@given(
    slots=strategies.integers(0, 6),
    probability=strategies.floats(0.05, 1),
    primary_in_bn=strategies.sampled_from(["always", "candidate", "never"]),
    seed=strategies.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_groups_are_non_empty_sets_of_the_pool(
    slots: int, probability: float, primary_in_bn: str, seed: int
) -> None:
    assume(primary_in_bn == "always" or slots)
    changes = {"num_bn_slots": slots, "bn_slot_prob": probability, "primary_in_bn": primary_in_bn}
    groups = draw(seed=seed, iterations=5, **changes).bn_teachers
    assert len(groups) == 5
    for group in groups:
        assert len(set(group)) == len(group) >= 1
        assert set(group) <= set(POOL)
        assert len(group) - (primary_in_bn == "always") <= slots
        if primary_in_bn != "candidate":
            assert ("a" in group) == (primary_in_bn == "always")


def test_pre_draws_once_and_intra_repeatedly() -> None:
    once, again = draw(selection="pre"), draw(iterations=1050, resample_every=100)
    assert {once.bn_teachers_at(step) for step in (0, 1, 7999)} == {once.bn_teachers[0]}
    assert len(again.bn_teachers) == 11
    for step, group in ((99, 0), (100, 1), (1049, 10)):
        assert again.bn_teachers_at(step) == again.bn_teachers[group]


def test_the_other_selections() -> None:
    assert draw(selection="all").bn_teachers == (POOL,)
    assert draw(selection="all", primary_in_bn="never").bn_teachers == (POOL[1:],)
    assert draw(selection="fixed", bn_fixed=["c"]).bn_teachers == (("a", "c"),)
    assert draw(selection="fixed", bn_fixed=["c"], primary_in_bn="never").bn_teachers == (("c",),)
    turns = draw(selection="round_robin", primary_in_bn="candidate")
    assert [turns.bn_teachers_at(step) for step in range(6)] == [(name,) for name in (*POOL, "a")]


def test_logit_teachers_are_the_primary_all_in_turn_or_the_drawn() -> None:
    primary = draw(iterations=3)
    assert [primary.logit_teachers_at(step) for step in (0, 1, 2)] == [("a",)] * 3
    turns = draw(selection="all", logits="round_robin")
    assert [turns.logit_teachers_at(k) for k in range(6)] == [(name,) for name in (*POOL, "a")]
    coupled = draw(logits="bn_teachers", bn_subset_size=2, primary_in_bn="candidate")
    assert len({coupled.bn_teachers_at(step) for step in range(50)}) > 5
    assert all(coupled.logit_teachers_at(k) == coupled.bn_teachers_at(k) for k in range(50))


@pytest.mark.parametrize(
    ("logits", "networks"),
    [("primary", ("a", "c")), ("bn_teachers", ("c",)), ("round_robin", POOL)],
)
def test_networks_of_a_schedule(logits: str, networks: tuple[str, ...]) -> None:
    fixed = draw(selection="fixed", bn_fixed=["c"], primary_in_bn="never", logits=logits)
    assert (fixed.bn_networks, fixed.networks) == (("c",), networks)


def test_the_published_program_draws_per_image_index() -> None:
    """Its units of one image index share a draw, for all classes."""
    changes = {"methods": ["prism_reference", "prism"], "recipe": {"num_bn_slots": 1}}
    settings = load_settings("digits_quick", changes)
    draws: dict[str, set[tuple[str, ...]]] = {"prism_reference": set(), "prism": set()}
    for method, found in draws.items():
        for first in range(0, 10, 2):
            batch = ImageBatch((0, 1), (first, first + 2))
            found.add(teacher_schedule(settings, method, batch).bn_teachers[0])
    assert len(draws["prism_reference"]) == 1
    assert len(draws["prism"]) > 1
