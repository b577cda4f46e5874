"""DD-Ranking's scores in plain numbers, and their bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_nb.evaluation.dd_ranking import dd_ranking_scores

NAMES = ("full", "hard", "soft", "random", "no_aug", "random_no_aug")
fractions = st.fixed_dictionaries({name: st.floats(0, 1) for name in NAMES})


def scaled(a: float) -> float:
    return (math.exp(a) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def test_a_literal_case() -> None:
    found = dd_ranking_scores(
        full=0.9, hard=0.5, soft=0.8, random=0.7, no_aug=0.4, random_no_aug=0.6
    )
    expected = {"HLR": 0.4, "IOR": 0.1, "LRS": scaled(-0.15), "ARS": scaled(-0.05)}
    assert found == pytest.approx(expected)


@given(fractions)
def test_scores_stay_in_bounds_and_are_monotonic(accuracies: dict[str, float]) -> None:
    found = dd_ranking_scores(**accuracies)
    assert 0 <= found["LRS"] <= 1
    assert 0 <= found["ARS"] <= 1
    for better in ({"hard": accuracies["hard"] + 0.01}, {"soft": accuracies["soft"] + 0.01}):
        assert dd_ranking_scores(**{**accuracies, **better})["LRS"] > found["LRS"]


def test_a_score_that_lacks_an_accuracy_is_undefined() -> None:
    found = dd_ranking_scores(**{**dict.fromkeys(NAMES, 0.5), "full": math.nan})
    assert {name for name, value in found.items() if math.isnan(value)} == {"HLR", "LRS"}
