"""Measures of whole sets and of several networks: KID, agreement, fidelity."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor

from prism_nb.diversity import metrics
from prism_nb.diversity.metrics import (
    all_agree,
    confidence,
    js_divergence,
    kid,
    pairs_agree,
    top1_hits,
)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kid_of_scikit_learn(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return polynomial_kernel(x, y, degree=3, gamma=1 / x.shape[1], coef0=1)

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        return float(values[~np.eye(len(x), dtype=bool)].mean())

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


@given(
    n=st.integers(2, 9),
    m=st.integers(2, 9),
    rows=st.integers(1, 10),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_kid_is_that_of_scikit_learn_however_it_is_cut(
    n: int, m: int, rows: int, seed: int
) -> None:
    a, b = normal(n, 5, seed=seed), 1 + normal(m, 5, seed=seed + 1)
    expected = kid_of_scikit_learn(a.double().numpy(), b.double().numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_ROWS", rows)
        assert kid(a, b) == pytest.approx(expected, abs=1e-9)
        assert kid(b, a) == pytest.approx(expected, abs=1e-9)


def test_kid_is_without_bias_and_sees_a_shift() -> None:
    same = [kid(normal(20, 4, seed=s), normal(20, 4, seed=5000 + s)) for s in range(400)]
    error = np.std(same) / math.sqrt(len(same))
    assert min(same) < 0
    assert abs(np.mean(same)) < 4 * error
    shifted = [kid(normal(20, 4, seed=s), 1 + normal(20, 4, seed=5000 + s)) for s in range(20)]
    assert np.mean(shifted) > 40 * error


def test_kid_of_features_without_bounds_is_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ROWS", 1)
    features = normal(4, 3, seed=0)
    features[0], features[1] = float("inf"), float("-inf")
    assert math.isnan(kid(features, normal(4, 3, seed=1)))


def test_kid_of_one_image_is_undefined() -> None:
    assert math.isnan(kid(torch.ones(1, 2), torch.ones(5, 2)))
    assert math.isnan(kid(torch.ones(5, 2), torch.ones(1, 2)))


# -- teachers --------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    named = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 2]])  # three networks, three images
    logits = torch.nn.functional.one_hot(named, 3).float()
    assert all_agree(logits).tolist() == [1, 0, 0]
    assert pairs_agree(logits).tolist() == pytest.approx([1, 1 / 3, 0])


def test_divergence_of_equal_and_of_certain_opposite_networks() -> None:
    logits = normal(1, 6, 4, seed=0)
    assert js_divergence(logits.repeat(3, 1, 1)).tolist() == pytest.approx([0] * 6, abs=1e-12)
    certain = torch.tensor([[[100.0, -100.0]], [[-100.0, 100.0]]])
    assert js_divergence(certain).item() == pytest.approx(math.log(2))


@given(networks=st.integers(2, 4), classes=st.integers(2, 5), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_divergence_equals_the_mean_of_two_relative_entropies(
    networks: int, classes: int, seed: int
) -> None:
    logits = 3 * normal(networks, 1, classes, seed=seed).double()
    rows = [[math.exp(v) for v in row] for row in logits[:, 0].tolist()]
    p = [[value / math.fsum(row) for value in row] for row in rows]

    def relative(a: list[float], b: list[float]) -> float:
        return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    apart = []
    for i in range(networks):
        for j in range(i):
            middle = [(x + y) / 2 for x, y in zip(p[i], p[j], strict=True)]
            apart.append((relative(p[i], middle) + relative(p[j], middle)) / 2)
    found = js_divergence(logits).item()
    assert found == pytest.approx(math.fsum(apart) / len(apart), abs=1e-12)
    assert 0 <= found <= math.log(2)
    order = torch.randperm(networks, generator=torch.Generator().manual_seed(seed))
    assert js_divergence(logits[order]).item() == pytest.approx(found, abs=1e-12)


# -- fidelity --------------------------------------------------------------------------------


def test_recognised_and_confident_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    classes = torch.tensor([0, 1])
    assert top1_hits(logits, classes).tolist() == [0, 1]
    assert confidence(logits, classes).tolist() == pytest.approx([1 / 4, 3 / 4])
