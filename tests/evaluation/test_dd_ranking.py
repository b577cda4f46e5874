"""DD-Ranking's scores in plain numbers, and their bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_nb.evaluation.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)

fractions = st.floats(0, 1)


def test_a_literal_case() -> None:
    recovery, improvement = hard_label_recovery(0.9, 0.5), improvement_over_random(0.8, 0.7)
    assert (recovery, improvement) == pytest.approx((0.4, 0.1))
    a = 0.5 * 0.1 - 0.5 * 0.4
    expected = (math.exp(a) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert label_robust_score(recovery, improvement) == pytest.approx(expected)


def test_scores_that_cancel_out_are_at_their_middle() -> None:
    middle = (1 - 1 / math.e) / (math.e - 1 / math.e)
    assert label_robust_score(0.2, 0.2) == pytest.approx(middle) == pytest.approx(0.269, abs=1e-3)
    assert augmentation_robust_score(0.1, -0.1) == pytest.approx(middle)


@given(fractions, fractions, fractions, fractions)
def test_scores_stay_in_bounds_and_are_monotonic(
    full: float, hard: float, synthetic: float, random: float
) -> None:
    recovery = hard_label_recovery(full, hard)
    improvement = improvement_over_random(synthetic, random)
    score = label_robust_score(recovery, improvement)
    assert 0 <= score <= 1
    assert label_robust_score(recovery - 0.01, improvement) > score
    assert label_robust_score(recovery, improvement + 0.01) > score
    assert 0 <= augmentation_robust_score(improvement, recovery) <= 1
