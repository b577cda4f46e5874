"""Work units: seeds and file names."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core.settings import STAGES
from prism_nb.core.units import slug, unit_seed

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
def test_seed_never_changes_between_versions(
    seed: int, parts: tuple[str | int, ...], expected: int
) -> None:
    assert unit_seed(seed, *parts) == expected


@given(_SEEDS, _KEYS)
@hypothesis_settings(deadline=None)
def test_seed_fits_a_torch_generator(seed: int, key: tuple[str, str, int, int]) -> None:
    assert 0 <= unit_seed(seed, *key) < 2**63


@given(_SEEDS, _KEYS, _KEYS)
@hypothesis_settings(deadline=None)
def test_different_keys_have_different_seeds(
    seed: int, one: tuple[str, str, int, int], other: tuple[str, str, int, int]
) -> None:
    assume(one != other)
    assert unit_seed(seed, *one) != unit_seed(seed, *other)


@given(_SEEDS, _SEEDS, _KEYS)
@hypothesis_settings(deadline=None)
def test_different_runs_give_a_unit_different_seeds(
    one: int, other: int, key: tuple[str, str, int, int]
) -> None:
    assume(one != other)
    assert unit_seed(one, *key) != unit_seed(other, *key)


@given(_SEEDS, _NUMBERS, _NUMBERS)
@hypothesis_settings(deadline=None)
def test_order_of_the_key_matters(seed: int, one: int, other: int) -> None:
    assume(one != other)
    assert unit_seed(seed, one, other) != unit_seed(seed, other, one)


def test_longer_key_is_another_key() -> None:
    assert unit_seed(0, "labels", 0) != unit_seed(0, "labels", 0, 0)


def test_no_two_units_of_a_large_run_share_a_seed() -> None:
    keys = list(product(STAGES, ["prism", "sre2l"], range(10), range(0, 1000, 10)))
    assert len({unit_seed(0, *key) for key in keys}) == len(keys)


def test_slug_is_one_part_of_a_path() -> None:
    assert slug("timm/resnet18") == "timm--resnet18"


def test_slug_of_a_plain_name_is_that_name() -> None:
    assert slug("resnet18") == "resnet18"
