"""Batch formation."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core.units import ImageBatch, class_major, class_wise, cross_class

_CLASSES = st.integers(1, 300)
_IPC = st.integers(1, 60)
_SIZE = st.integers(1, 200)
_quickly = hypothesis_settings(deadline=None, max_examples=100)


def lengths(runs: set[tuple[int, int]]) -> list[int]:
    """Return the lengths of some (first, one-past-last) runs."""
    return [end - begin for begin, end in runs]


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_every_image_is_in_exactly_one_batch(classes: int, ipc: int, batch_size: int) -> None:
    found = Counter(m for batch in cross_class(classes, ipc, batch_size) for m in batch.members())
    assert set(found) == {(c, s) for c in range(classes) for s in range(ipc)}
    assert set(found.values()) == {1}


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_no_batch_is_empty_or_larger_than_asked_for(
    classes: int, ipc: int, batch_size: int
) -> None:
    sizes = [len(batch.members()) for batch in cross_class(classes, ipc, batch_size)]
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_with_enough_classes_a_batch_holds_one_slot_of_different_classes(
    classes: int, ipc: int, batch_size: int
) -> None:
    assume(classes >= batch_size)
    for batch in cross_class(classes, ipc, batch_size):
        members = batch.members()
        assert len({image_index for _, image_index in members}) == 1
        assert len({index for index, _ in members}) == len(members)


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_with_few_classes_every_batch_holds_them_all(
    classes: int, ipc: int, batch_size: int
) -> None:
    assume(classes <= batch_size)
    for batch in cross_class(classes, ipc, batch_size):
        assert batch.classes == (0, classes)


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_runs_of_classes_are_as_equal_as_they_can_be(
    classes: int, ipc: int, batch_size: int
) -> None:
    runs = lengths({batch.classes for batch in cross_class(classes, ipc, batch_size)})
    assert max(runs) - min(runs) <= 1


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_runs_of_slots_are_as_equal_as_they_can_be(classes: int, ipc: int, batch_size: int) -> None:
    runs = lengths({batch.image_indices for batch in cross_class(classes, ipc, batch_size)})
    assert max(runs) - min(runs) <= 1


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_there_are_no_more_batches_than_needed(classes: int, ipc: int, batch_size: int) -> None:
    slots_together = max(1, batch_size // classes)
    fewest = -(-classes // batch_size) * -(-ipc // slots_together)
    assert len(cross_class(classes, ipc, batch_size)) == fewest


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_slots_ascend(classes: int, ipc: int, batch_size: int) -> None:
    image_indices = [batch.image_indices for batch in cross_class(classes, ipc, batch_size)]
    assert image_indices == sorted(image_indices)


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_names_are_distinct_since_markers_are_named_by_them(
    classes: int, ipc: int, batch_size: int
) -> None:
    names = [batch.name for batch in cross_class(classes, ipc, batch_size)]
    assert len(set(names)) == len(names)


def test_imagenet_has_100_batches_of_100_consecutive_classes() -> None:
    batches = cross_class(1000, 10, 100)
    assert [(batch.image_indices, batch.classes) for batch in batches] == [
        ((image_index, image_index + 1), (first, first + 100))
        for image_index in range(10)
        for first in range(0, 1000, 100)
    ]


def test_ten_classes_share_their_batches_between_slots() -> None:
    assert cross_class(10, 10, 50) == [ImageBatch((0, 5), (0, 10)), ImageBatch((5, 10), (0, 10))]


def test_small_rest_is_spread_over_the_batches() -> None:
    runs = [batch.classes for batch in cross_class(101, 1, 100)]
    assert sorted(lengths(set(runs))) == [50, 51]


def test_members_go_slot_by_slot() -> None:
    assert ImageBatch((2, 4), (5, 7)).members() == [(5, 2), (6, 2), (5, 3), (6, 3)]


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (ImageBatch((0, 5), (0, 100)), "images000-004_classes000-099"),
        (ImageBatch((9, 10), (900, 1000)), "images009-009_classes900-999"),
    ],
)
def test_name_includes_both_ends(batch: ImageBatch, name: str) -> None:
    assert batch.name == name


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_class_wise_batches_hold_one_class_and_every_image_once(
    classes: int, ipc: int, batch_size: int
) -> None:
    batches = class_wise(classes, ipc, batch_size)
    found = Counter(member for batch in batches for member in batch.members())
    assert found == Counter((c, s) for c in range(classes) for s in range(ipc))
    for batch in batches:
        assert len({index for index, _ in batch.members()}) == 1
        assert len(batch.members()) <= batch_size
    assert len(batches) == classes * -(-ipc // batch_size)


def test_slots_may_be_kept_apart() -> None:
    batches = cross_class(10, 4, 50, share_indices=False)
    assert [batch.image_indices for batch in batches] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert all(batch.classes == (0, 10) for batch in batches)


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_class_major_batches_hold_classes_whole_where_they_fit(
    classes: int, ipc: int, batch_size: int
) -> None:
    batches = class_major(classes, ipc, batch_size)
    found = Counter(member for batch in batches for member in batch.members())
    assert found == Counter((c, s) for c in range(classes) for s in range(ipc))
    assert max(len(batch.members()) for batch in batches) <= batch_size
    if ipc <= batch_size:
        assert {batch.image_indices for batch in batches} == {(0, ipc)}
        assert len(batches) == -(-classes // (batch_size // ipc))
    else:
        assert max(lengths({batch.classes for batch in batches})) == 1
        assert len(batches) == classes * -(-ipc // batch_size)
    for runs in ({batch.classes for batch in batches}, {batch.image_indices for batch in batches}):
        assert max(lengths(runs)) - min(lengths(runs)) <= 1
    assert [batch.classes for batch in batches] == sorted(batch.classes for batch in batches)


def test_imagenet_in_whole_classes() -> None:
    batches = class_major(1000, 10, 80)
    assert len(batches) == 125
    assert batches[1] == ImageBatch((0, 10), (8, 16))


def test_class_major_batches_of_slots_apart_are_cross_class() -> None:
    assert class_major(30, 4, 10, share_indices=False) == cross_class(
        30, 4, 10, share_indices=False
    )


def test_class_wise_batches_of_slots_apart_hold_one_image() -> None:
    batches = class_wise(2, 3, 10, share_indices=False)
    assert [len(batch.members()) for batch in batches] == [1] * 6
