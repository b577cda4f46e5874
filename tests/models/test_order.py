"""The rule by which a head in the wrong order is told from one in the right order."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from prism_nb.core.errors import PrismError
from prism_nb.data.small import Digits
from prism_nb.models.squeeze import check_class_order, map_classes, min_correct, sample_check_images

RISK = Fraction(1, 1000)
TEXT_ORDER = np.array(sorted(range(1000), key=str))


def at_least(right: int, images: int, share: Fraction) -> Fraction:
    """The exact chance of so many hits or more."""
    terms = range(right, images + 1)
    return sum(
        (comb(images, k) * share**k * (1 - share) ** (images - k) for k in terms), Fraction(0)
    )


def seen(
    order: np.ndarray, *, each: int, knows: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Guesses and labels of a network that knows classes, but calls class c `order[c]`.

    What it does not know of a class it takes for others, most often for one that resembles it.
    """
    rng, classes = np.random.default_rng(seed), len(order)
    true = np.repeat(np.arange(classes), each)
    like = rng.permutation(classes)[true]
    other = np.where(rng.random(len(true)) < 0.4, like, rng.integers(0, classes, len(true)))
    taken = np.where(rng.random(len(true)) < knows, true, other)
    return order[taken], true


def is_told(
    order: np.ndarray, *, each: int = 50, knows: float = 0.7, accuracy: float | None = None
) -> bool:
    """Return whether a network passes, and check that it is then said to be in order."""
    guesses, labels = seen(order, each=each, knows=knows)
    folders = [str(c) for c in range(len(order))]
    return check_class_order("mine", guesses, labels, folders=folders, accuracy=accuracy)


# -- by a published accuracy -----------------------------------------------------------------


@given(
    images=strategies.integers(1, 60),
    classes=strategies.integers(2, 1000),
    accuracy=strategies.integers(1, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_keeps_both_risks(images: int, classes: int, accuracy: int) -> None:
    least = min_correct(images, classes, accuracy / 100)
    guess, half = Fraction(1, classes), Fraction(accuracy, 100)
    falls_short = [1 - at_least(k, images, half) for k in range(images + 2)]
    if any(abs(chance - RISK) < 1e-9 for chance in falls_short):
        return
    exact = max(k for k, chance in enumerate(falls_short) if chance < RISK)
    passes = at_least(exact, images, guess)
    if abs(passes - RISK) > 1e-9:
        assert least == (exact if passes < RISK else None)


def test_the_docstrings_numbers() -> None:
    assert min_correct(128, 1000, 0.349) == 29
    assert min_correct(50_000, 1000, 0.349) == 17_121
    assert min_correct(40, 10, 0.349) is None  # guessing is too often right; all images can tell
    assert min_correct(500, 10, 0.349) is not None
    assert min_correct(128, 1000, None) is None
    assert min_correct(0, 1000, 0.349) is None


def test_numbers_sorted_as_text_are_found_by_few_images_and_by_all() -> None:
    guesses, labels = seen(TEXT_ORDER, each=50, knows=0.7)
    few = np.isin(labels, np.random.default_rng(0).permutation(1000)[:32])
    folders = [str(c) for c in range(1000)]
    for chosen in (few, np.ones(len(labels), dtype=bool)):
        for accuracy in (0.349, None):
            with pytest.raises(PrismError, match="class order is not that of its head"):
                check_class_order(
                    "mine", guesses[chosen], labels[chosen], folders=folders, accuracy=accuracy
                )


def test_far_less_than_published_is_refused_where_no_class_says_more() -> None:
    guesses, labels = seen(TEXT_ORDER, each=3, knows=0.7)
    folders = [str(c) for c in range(1000)]
    least = min_correct(3000, 1000, 0.35)
    words = rf"'mine' knows \d+ of 3000 held-out images, though .* published of it {least} would"
    with pytest.raises(PrismError, match=words):
        check_class_order("mine", guesses, labels, folders=folders, accuracy=0.35)
    assert not check_class_order("mine", guesses, labels, folders=folders, accuracy=None)


# -- by what classes are taken for -----------------------------------------------------------


@given(
    seed=strategies.integers(0, 2**32 - 1),
    classes=strategies.sampled_from([10, 100, 1000]),
    knows=strategies.floats(0.6, 0.95),
)
@settings(max_examples=25, deadline=None)
def test_random_orders_are_refused_and_the_right_one_never(
    seed: int, classes: int, knows: float
) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(classes)
    folders = [str(c) for c in range(classes)]
    for each in (4, 50):
        right, labels = seen(np.arange(classes), each=each, knows=knows, seed=seed)
        check_class_order("mine", right, labels, folders=folders, accuracy=None)
        if each == 50:
            assert check_class_order("mine", right, labels, folders=folders, accuracy=None)
            if (order != np.arange(classes)).mean() > 0.3:
                with pytest.raises(PrismError, match="class order"):
                    check_class_order("mine", order[right], labels, folders=folders, accuracy=None)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_reversed_order_is_refused(classes: int) -> None:
    with pytest.raises(PrismError, match=rf"of {classes} classes .* most images of '0' for "):
        is_told(np.arange(classes)[::-1])


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_order_that_is_partly_right_is_refused_by_many_images(kept: float) -> None:
    order, away = np.arange(1000), int(1000 * (1 - kept))
    order[:away] = np.roll(order[:away], 1)
    with pytest.raises(PrismError, match="class order"):
        is_told(order, accuracy=0.349)


def test_two_classes_in_each_others_place_are_found_among_few_classes_only() -> None:
    for classes in (10, 50):
        order = np.arange(classes)
        order[[3, 7]] = 7, 3
        with pytest.raises(PrismError, match="takes 2 of .* '3' for '7'"):
            is_told(order)
    thousand = np.arange(1000)
    thousand[[3, 7]] = 7, 3
    assert is_told(thousand, accuracy=0.349)


def test_two_confused_classes_are_no_wrong_order() -> None:
    guesses, labels = seen(np.arange(10), each=50, knows=0.9)
    guesses[labels == 4] = 5
    placing = map_classes(guesses, labels, 10)
    assert placing.wrong == ()
    assert placing.right == 8


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_network_that_knows_nothing_is_not_refused_and_not_believed(classes: int) -> None:
    folders, labels = [str(c) for c in range(classes)], np.repeat(np.arange(classes), 50)
    guessing = np.random.default_rng(0).integers(0, classes, len(labels))
    for guesses in (guessing, np.zeros_like(labels)):
        assert not check_class_order("mine", guesses, labels, folders=folders, accuracy=None)


def test_three_images_of_a_class_tell_nothing() -> None:
    placing = map_classes(*seen(np.arange(10), each=3, knows=1.0), 10)
    assert not placing.tells
    assert not is_told(np.arange(10)[::-1], each=3)


# -- few images ------------------------------------------------------------------------------


def test_a_few_images_are_of_32_classes_or_of_all() -> None:
    digits = Digits(32)
    labels = digits.labels("val")[sample_check_images(digits)]
    classes, counts = np.unique(labels, return_counts=True)
    assert classes.tolist() == list(range(10))
    assert set(counts.tolist()) == {13}


def test_a_few_classes_are_spread_without_a_rule_that_an_order_could_have() -> None:
    class Thousand(Digits):
        def class_indices(self, split: str, index: int) -> np.ndarray:
            return np.arange(50) + 50 * index

    dataset = Thousand(32)
    dataset.classes = dataset.classes * 100
    classes, counts = np.unique(sample_check_images(dataset) // 50, return_counts=True)
    assert len(classes) == 32
    assert set(counts.tolist()) == {4}
    assert len(set(np.diff(classes).tolist())) > 10
    assert (TEXT_ORDER[classes] == classes).sum() <= 1
    assert (sample_check_images(dataset) // 50 == np.repeat(classes, 4)).all()
