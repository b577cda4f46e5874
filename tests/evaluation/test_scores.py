"""Scores: formulas in plain numbers, their traps, and what a verdict counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.evaluation.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from prism_nb.evaluation.student import evaluate

shares = st.floats(0, 1)


def test_scores_that_cancel_out_are_at_their_middle() -> None:
    middle = (1 - 1 / math.e) / (math.e - 1 / math.e)
    assert label_robust_score(0.2, 0.2) == pytest.approx(middle) == pytest.approx(0.269, abs=1e-3)
    assert augmentation_robust_score(0.1, -0.1) == pytest.approx(middle)


def test_a_literal_case() -> None:
    recovery, improvement = hard_label_recovery(0.9, 0.5), improvement_over_random(0.8, 0.7)
    assert (recovery, improvement) == pytest.approx((0.4, 0.1))
    a = 0.5 * 0.1 - 0.5 * 0.4
    expected = (math.exp(a) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert label_robust_score(recovery, improvement) == pytest.approx(expected)


@given(shares, shares, shares, shares)
def test_scores_stay_within_bounds_and_grow_with_what_is_good(
    full: float, hard: float, mine: float, random: float
) -> None:
    recovery, improvement = hard_label_recovery(full, hard), improvement_over_random(mine, random)
    score = label_robust_score(recovery, improvement)
    assert 0 <= score <= 1
    assert label_robust_score(recovery - 0.01, improvement) > score
    assert label_robust_score(recovery, improvement + 0.01) > score
    assert 0 <= augmentation_robust_score(improvement, recovery) <= 1


class Known(ImageDataset):
    """Images whose first pixel says what `Guesser` will answer."""

    def __init__(self, guesses: list[list[int]], labels: list[int], classes: int) -> None:
        self.name, self.image_size = "known", 8
        self.classes = tuple(ClassInfo(i, str(i), str(i)) for i in range(classes))
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.guesses, self._labels = guesses, np.array(labels)

    def labels(self, split: str) -> np.ndarray:
        return self._labels

    def images(self, split: str, indices: range) -> Tensor:
        return torch.tensor(list(indices), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


class Guesser(nn.Module):
    def __init__(self, dataset: Known) -> None:
        super().__init__()
        self.dataset = dataset

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), len(self.dataset.classes))
        for row, image in enumerate(images):
            for rank, c in enumerate(self.dataset.guesses[round(float(image[0, 0, 0]) * 255)]):
                logits[row, c] = 100 - rank
        return logits


def test_a_verdict_counts_first_and_first_five_guesses_by_class() -> None:
    guesses = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5], [2, 1, 3, 4, 5, 0]]
    dataset = Known(guesses, labels=[0, 0, 1, 1], classes=6)
    verdict = evaluate(Guesser(dataset), dataset, torch.device("cpu"))
    assert (verdict.top1, verdict.top5) == (0.5, 0.75)
    assert verdict.per_class[:2] == (0.5, 0.5)
    assert verdict.per_class[2:] == (None,) * 4


def test_with_few_classes_the_first_five_are_all_of_them() -> None:
    dataset = Known([[1, 0], [0, 1]], labels=[0, 0], classes=2)
    verdict = evaluate(Guesser(dataset), dataset, torch.device("cpu"))
    assert (verdict.top1, verdict.top5) == (0.5, 1.0)
