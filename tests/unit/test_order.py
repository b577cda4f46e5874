"""The rule by which a head in the wrong order is told from one in the right order."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from prism_nb.data.digits import Digits
from prism_nb.errors import PrismError
from prism_nb.teachers.order import few_images, least_right, require_order

RISK = Fraction(1, 1000)


def at_least(right: int, images: int, share: Fraction) -> Fraction:
    """The exact chance of so many hits or more."""
    terms = range(right, images + 1)
    return sum(
        (comb(images, k) * share**k * (1 - share) ** (images - k) for k in terms), Fraction(0)
    )


@given(
    images=strategies.integers(1, 60),
    classes=strategies.integers(2, 1000),
    published=strategies.integers(1, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_keeps_both_risks(images: int, classes: int, published: int) -> None:
    least = least_right(images, classes, published / 100)
    guess, half = Fraction(1, classes), Fraction(published, 200)
    exact = next(k for k in range(images + 2) if at_least(k, images, guess) < RISK)
    fails = 1 - at_least(exact, images, half)
    if abs(fails - RISK) < 1e-9:
        return
    assert least == (exact if fails < RISK else None)


def test_thirty_two_images_of_a_thousand_classes_tell() -> None:
    assert least_right(32, 1000, 0.7) == 2
    assert least_right(32, 10, 0.7) is None  # guessing is too often right; all images can tell
    assert least_right(500, 10, 0.7) is not None
    assert least_right(32, 1000, None) is None
    assert least_right(0, 1000, 0.7) is None


def test_a_head_no_better_than_chance_is_refused_where_that_can_be_told() -> None:
    with pytest.raises(PrismError, match=r"'mine' knows 1 of 32 .* 69\.8 % are published"):
        require_order("mine", 1, 32, classes=1000, published=0.698)
    assert require_order("mine", 2, 32, classes=1000, published=0.698)
    assert not require_order("mine", 0, 32, classes=1000, published=None)
    assert not require_order("mine", 0, 32, classes=10, published=0.698)


def test_a_few_images_are_four_of_each_of_eight_classes() -> None:
    digits = Digits(32)
    labels = digits.labels("val")[few_images(digits)]
    classes, counts = np.unique(labels, return_counts=True)
    assert len(classes) == 8
    assert {0, 9} <= set(classes.tolist())
    assert set(counts.tolist()) == {4}
