"""Seeds, file names and batches of units."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core.settings import STAGES
from prism_nb.core.units import ImageBatch, class_major, class_wise, cross_class, slug, unit_seed

_SEEDS = st.integers(0, 2**63 - 1)


_NUMBERS = st.integers(0, 2**32 - 1)


_KEYS = st.tuples(
    st.sampled_from(STAGES), st.sampled_from(["prism", "sre2l", "random_real"]), _NUMBERS, _NUMBERS
)


@pytest.mark.parametrize(
    ("seed", "parts", "expected"),
    [
        (0, ("synthesis", "prism", 0, 1), 442285431583558348),
        (7, (), 8460147692890830636),
    ],
)
def test_seeds_never_change_between_versions(
    seed: int, parts: tuple[str | int, ...], expected: int
) -> None:
    assert unit_seed(seed, *parts) == expected


@given(_SEEDS, _KEYS)
@hypothesis_settings(deadline=None)
def test_seeds_fit_a_torch_generator(seed: int, key: tuple[str, str, int, int]) -> None:
    assert 0 <= unit_seed(seed, *key) < 2**63


@given(_SEEDS, _KEYS, _KEYS)
@hypothesis_settings(deadline=None)
def test_different_keys_have_different_seeds(
    seed: int, one: tuple[str, str, int, int], other: tuple[str, str, int, int]
) -> None:
    assume(one != other)
    assert unit_seed(seed, *one) != unit_seed(seed, *other)


@given(_SEEDS, _NUMBERS, _NUMBERS)
@hypothesis_settings(deadline=None)
def test_the_order_of_a_key_matters(seed: int, one: int, other: int) -> None:
    assume(one != other)
    assert unit_seed(seed, one, other) != unit_seed(seed, other, one)


def test_units_of_a_large_run_share_no_seed() -> None:
    keys = list(product(STAGES, ["prism", "sre2l"], range(10), range(0, 1000, 10)))
    assert len({unit_seed(0, *key) for key in keys}) == len(keys)


_CLASSES = st.integers(1, 300)


_IPC = st.integers(1, 60)


_SIZE = st.integers(1, 200)


_quickly = hypothesis_settings(deadline=None, max_examples=100)


def lengths(runs: set[tuple[int, int]]) -> list[int]:
    """Return the lengths of some (first, one-past-last) runs."""
    return [end - begin for begin, end in runs]


def test_slugs_are_one_part_of_a_path() -> None:
    assert slug("resnet18") == "resnet18"
    assert slug("timm/resnet18") == "timm--resnet18"
    one, other = slug("resnet18@/a/w.pth"), slug("resnet18@/b/w.pth")
    assert one.startswith("resnet18@w.pth-")
    assert "/" not in one
    assert one != other


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_batches_hold_every_image_once(classes: int, ipc: int, batch_size: int) -> None:
    expected = Counter(product(range(classes), range(ipc)))
    for form in (cross_class, class_wise, class_major):
        batches = form(classes, ipc, batch_size)
        assert Counter(m for batch in batches for m in batch.members()) == expected
        assert max(len(batch.members()) for batch in batches) <= batch_size
        assert len({batch.name for batch in batches}) == len(batches)
        for runs in ({b.classes for b in batches}, {b.image_indices for b in batches}):
            assert max(lengths(runs)) - min(lengths(runs)) <= 1


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_cross_class_batches_hold_different_classes(
    classes: int, ipc: int, batch_size: int
) -> None:
    batches = cross_class(classes, ipc, batch_size)
    indices_together = max(1, batch_size // classes)
    assert len(batches) == -(-classes // batch_size) * -(-ipc // indices_together)
    assert [b.image_indices for b in batches] == sorted(b.image_indices for b in batches)
    for batch in batches:
        members = batch.members()
        if classes >= batch_size:
            assert len({index for _, index in members}) == 1
            assert len({c for c, _ in members}) == len(members)
        if classes <= batch_size:
            assert batch.classes == (0, classes)


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_class_wise_and_class_major_batches(classes: int, ipc: int, batch_size: int) -> None:
    wise, major = class_wise(classes, ipc, batch_size), class_major(classes, ipc, batch_size)
    assert lengths({batch.classes for batch in wise}) == [1] * classes
    assert len(wise) == classes * -(-ipc // batch_size)
    assert [b.classes for b in major] == sorted(b.classes for b in major)
    if ipc <= batch_size:
        assert {batch.image_indices for batch in major} == {(0, ipc)}
        assert len(major) == -(-classes // (batch_size // ipc))
    else:
        assert len(major) == len(wise)


def test_imagenet_has_100_batches_of_100_consecutive_classes() -> None:
    batches = cross_class(1000, 10, 100)
    assert [(batch.image_indices, batch.classes) for batch in batches] == [
        ((index, index + 1), (first, first + 100))
        for index in range(10)
        for first in range(0, 1000, 100)
    ]
    whole = class_major(1000, 10, 80)
    assert len(whole) == 125
    assert whole[1] == ImageBatch((0, 10), (8, 16))


def test_few_classes_share_batches_and_rests_are_spread() -> None:
    assert cross_class(10, 10, 50) == [ImageBatch((0, 5), (0, 10)), ImageBatch((5, 10), (0, 10))]
    assert sorted(lengths({batch.classes for batch in cross_class(101, 1, 100)})) == [50, 51]


def test_image_indices_may_be_kept_apart() -> None:
    batches = cross_class(10, 4, 50, share_indices=False)
    assert [batch.image_indices for batch in batches] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert class_major(10, 4, 50, share_indices=False) == batches
    wise = class_wise(2, 3, 10, share_indices=False)
    assert [len(batch.members()) for batch in wise] == [1] * 6


def test_batches_are_named_by_both_ends_and_ordered_by_image_index() -> None:
    batch = ImageBatch((2, 4), (5, 7))
    assert batch.name == "images002-003_classes005-006"
    assert batch.members() == [(5, 2), (6, 2), (5, 3), (6, 3)]
