"""Seeds, file names and batches of units."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core.settings import STAGES
from prism_nb.core.units import ImageBatch, image_batches, slug, unit_seed


@pytest.mark.parametrize(
    ("seed", "parts", "expected"),
    [
        (0, ("synthesis", "prism", 0, 1), 442285431583558348),
        (7, (), 8460147692890830636),
        (2**63 - 1, ("relabel", 2**32 - 1), 5478017776308378103),
    ],
)
def test_seeds_never_change_between_versions(
    seed: int, parts: tuple[str | int, ...], expected: int
) -> None:
    assert unit_seed(seed, *parts) == expected < 2**63


def test_units_share_no_seed() -> None:
    keys = list(product(STAGES, ["prism", "sre2l"], range(10), range(0, 1000, 10)))
    seeds = {unit_seed(0, *key) for key in keys} | {unit_seed(1, *key) for key in keys}
    assert len(seeds) == 2 * len(keys)
    assert unit_seed(0, 1, 2) != unit_seed(0, 2, 1)


def test_slugs_are_one_part_of_a_path() -> None:
    assert slug("resnet18") == "resnet18"
    assert slug("timm/resnet18") == "timm--resnet18"
    one, other = slug("resnet18@/a/w.pth"), slug("resnet18@/b/w.pth")
    assert one.startswith("resnet18@w.pth-")
    assert "/" not in one
    assert one != other


# -- batches ---------------------------------------------------------------------------------

_CLASSES, _IPC, _SIZE = st.integers(1, 300), st.integers(1, 60), st.integers(1, 200)
_quickly = hypothesis_settings(deadline=None, max_examples=100)


def lengths(runs: set[tuple[int, int]]) -> list[int]:
    """Return the lengths of some (first, one-past-last) runs."""
    return [end - begin for begin, end in runs]


@given(_CLASSES, _IPC, _SIZE)
@_quickly
def test_batches_hold_every_image_once(classes: int, ipc: int, batch_size: int) -> None:
    expected = Counter(product(range(classes), range(ipc)))
    for form in ("cross_class", "class_wise", "class_major"):
        batches = image_batches(form, classes, ipc, batch_size)
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
    batches = image_batches("cross_class", classes, ipc, batch_size)
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
    wise = image_batches("class_wise", classes, ipc, batch_size)
    major = image_batches("class_major", classes, ipc, batch_size)
    assert lengths({batch.classes for batch in wise}) == [1] * classes
    assert len(wise) == classes * -(-ipc // batch_size)
    assert [b.classes for b in major] == sorted(b.classes for b in major)
    if ipc <= batch_size:
        assert {batch.image_indices for batch in major} == {(0, ipc)}
        assert len(major) == -(-classes // (batch_size // ipc))
    else:
        assert len(major) == len(wise)


def test_imagenet_has_100_batches_of_100_consecutive_classes() -> None:
    batches = image_batches("cross_class", 1000, 10, 100)
    assert [(batch.image_indices, batch.classes) for batch in batches] == [
        ((index, index + 1), (first, first + 100))
        for index in range(10)
        for first in range(0, 1000, 100)
    ]
    whole = image_batches("class_major", 1000, 10, 80)
    assert (len(whole), whole[1]) == (125, ImageBatch((0, 10), (8, 16)))


def test_image_indices_may_be_kept_apart() -> None:
    batches = image_batches("cross_class", 10, 4, 50, share_indices=False)
    assert [batch.image_indices for batch in batches] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert image_batches("class_major", 10, 4, 50, share_indices=False) == batches
    wise = image_batches("class_wise", 2, 3, 10, share_indices=False)
    assert [len(batch.members()) for batch in wise] == [1] * 6


def test_batches_are_named_by_both_ends_and_ordered_by_image_index() -> None:
    batch = ImageBatch((2, 4), (5, 7))
    assert batch.name == "images002-003_classes005-006"
    assert batch.members() == [(5, 2), (6, 2), (5, 3), (6, 3)]
