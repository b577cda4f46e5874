"""Metrics against closed forms, scikit-learn and scipy, and what must not matter."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity, polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from prism_nb.diversity import metrics
from prism_nb.diversity.metrics import (
    all_agree,
    centroid_cosine,
    confidence,
    density_coverage,
    distances,
    intra_class_cosine,
    js_divergence,
    kid,
    mean_distance_to_centroid,
    nearest_in_class,
    nearest_real,
    neighbour_radii,
    normalize_rows,
    pairs_agree,
    top1_hits,
    vendi_score,
)

ClassMetric = Callable[[Tensor], float]

SIZES = {"n": st.integers(2, 9), "d": st.integers(2, 6), "seed": st.integers(0, 999)}


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# -- within a class --------------------------------------------------------------------------


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_cosine(rows: np.ndarray) -> float:
    return float(cosine_similarity(rows)[~np.eye(len(rows), dtype=bool)].mean())


def plain_centroid_cosine(rows: np.ndarray) -> float:
    return float(cosine_similarity(rows, unit_rows(rows).mean(0, keepdims=True)).mean())


def plain_vendi(rows: np.ndarray) -> float:
    return float(np.exp(entropy(np.linalg.svd(cosine_similarity(rows), compute_uv=False))))


def plain_distance_to_centroid(rows: np.ndarray) -> float:
    return float(np.linalg.norm(rows - rows.mean(0), axis=1).mean())


def plain_nearest(rows: np.ndarray) -> float:
    index = NearestNeighbors(n_neighbors=1).fit(unit_rows(rows))
    return float(index.kneighbors()[0].mean())


Plain = dict[ClassMetric, Callable[[np.ndarray], float]]
OF_DIRECTIONS: Plain = {
    intra_class_cosine: plain_cosine,
    centroid_cosine: plain_centroid_cosine,
    vendi_score: plain_vendi,
    nearest_in_class: plain_nearest,
}
OF_LENGTHS: Plain = {mean_distance_to_centroid: plain_distance_to_centroid}
PLAIN = OF_DIRECTIONS | OF_LENGTHS
of_classes = pytest.mark.parametrize("metric", PLAIN, ids=lambda metric: metric.__name__)
of_directions = pytest.mark.parametrize("metric", OF_DIRECTIONS, ids=lambda metric: metric.__name__)


@of_classes
@given(**SIZES)
@settings(max_examples=40, deadline=None)
def test_metrics_equal_the_plain_way_in_any_order(
    metric: ClassMetric, n: int, d: int, seed: int
) -> None:
    features = normal(n, d, seed=seed)
    expected = PLAIN[metric](features.numpy())
    shuffled = features[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    assert metric(features) == pytest.approx(expected, abs=1e-9)
    assert metric(shuffled) == pytest.approx(expected, abs=1e-9)


@of_classes
def test_one_image_and_infinite_features_are_undefined(metric: ClassMetric) -> None:
    assert math.isnan(metric(torch.ones(1, 3)))
    assert math.isnan(metric(torch.tensor([[1.0, 2.0], [math.nan, 1.0]])))


@of_directions
def test_a_feature_of_zeros_has_no_direction(metric: ClassMetric) -> None:
    assert math.isnan(metric(torch.tensor([[1.0, 2.0], [0.0, 0.0]])))


# -- among real images -----------------------------------------------------------------------


def test_equal_rows_lie_at_distance_zero_exactly() -> None:
    features = (1000 + normal(30, 64, seed=0)).float()
    assert (distances(features, features).diagonal() == 0).all()


@given(n=st.integers(1, 8), m=st.integers(1, 9), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_nearest_images_are_those_of_scikit_learn(n: int, m: int, seed: int) -> None:
    features, real = normal(n, 4, seed=seed), normal(m, 4, seed=seed + 1)
    found, rows = nearest_real(features, real)
    index = NearestNeighbors(n_neighbors=1).fit(normalize_rows(real).numpy())
    expected, expected_rows = index.kneighbors(normalize_rows(features).numpy())
    np.testing.assert_allclose(found.numpy(), expected[:, 0], atol=1e-9)
    assert rows.tolist() == expected_rows[:, 0].tolist()


def test_nearest_image_needs_a_real_image_and_a_direction() -> None:
    real = normal(3, 2, seed=0)
    assert nearest_real(real, real[:0])[0].isnan().all()
    found, _ = nearest_real(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), real)
    assert found.isnan().tolist() == [True, False]
    assert nearest_real(real, torch.zeros(1, 2))[0].isnan().all()


@given(n=st.integers(1, 8), m=st.integers(4, 10), k=st.integers(1, 3), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_density_and_coverage_equal_the_plain_way(n: int, m: int, k: int, seed: int) -> None:
    features, real = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 1)
    radii = NearestNeighbors(n_neighbors=k).fit(real.numpy()).kneighbors()[0][:, -1]
    np.testing.assert_allclose(neighbour_radii(real, k).numpy(), radii)
    inside = cdist(features.numpy(), real.numpy()) < radii * (1 - 1e-5)
    expected = inside.sum() / (k * n), inside.any(0).mean()
    assert density_coverage(features, real, torch.from_numpy(radii), k) == pytest.approx(expected)


def test_a_copy_on_the_edge_is_outside_however_it_is_rounded() -> None:
    real = 10 + normal(40, 16, seed=0)
    radii = neighbour_radii(real)
    exact = density_coverage(real, real, radii)
    assert exact[0] == pytest.approx(1)  # itself and the four neighbours inside
    for seed in range(5):
        rounded = real * (1 + 1e-7 * normal(40, 16, seed=seed))
        assert density_coverage(rounded, real, radii) == exact


def test_density_and_coverage_need_six_real_images() -> None:
    five, six = normal(5, 2, seed=0), normal(6, 2, seed=0)
    broken = torch.full((1, 2), math.nan)
    assert neighbour_radii(six).isfinite().all()
    for features, real in [(six, five), (broken, six), (six, six[:0])]:
        assert all(map(math.isnan, density_coverage(features, real, neighbour_radii(real))))


# -- KID -------------------------------------------------------------------------------------


def kid_of_scikit_learn(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return polynomial_kernel(x, y, degree=3, gamma=1 / x.shape[1], coef0=1)

    def within(x: np.ndarray) -> float:
        return float(kernel(x, x)[~np.eye(len(x), dtype=bool)].mean())

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


@given(n=st.integers(2, 9), m=st.integers(2, 9), rows=st.integers(1, 10), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_kid_is_that_of_scikit_learn_in_any_chunks(n: int, m: int, rows: int, seed: int) -> None:
    a, b = normal(n, 5, seed=seed), 1 + normal(m, 5, seed=seed + 1)
    expected = kid_of_scikit_learn(a.numpy(), b.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_ROWS", rows)  # else a test of chunks needs thousands of rows
        assert kid(a, b) == pytest.approx(expected, abs=1e-9)
        assert kid(b, a) == pytest.approx(expected, abs=1e-9)


def test_kid_needs_two_finite_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math.isnan(kid(torch.ones(1, 2), torch.ones(5, 2)))
    assert math.isnan(kid(torch.ones(5, 2), torch.ones(1, 2)))
    monkeypatch.setattr(metrics, "_ROWS", 1)  # so that infinities of both signs meet as sums
    features = normal(4, 3, seed=0)
    features[0], features[1] = math.inf, -math.inf
    assert math.isnan(kid(features, normal(4, 3, seed=1)))


# -- logits ----------------------------------------------------------------------------------


def test_hits_and_confidence_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0], [math.nan, 0.0]])
    hits, sure = top1_hits(logits, 1), confidence(logits, 1)
    assert hits[:2].tolist() == [1, 0]
    assert sure[:2].tolist() == pytest.approx([3 / 4, 1 / 5])
    assert hits.isnan().tolist() == sure.isnan().tolist() == [False, False, True]


def test_agreement_by_hand() -> None:
    top1 = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 2]])  # three networks, three images
    logits = torch.nn.functional.one_hot(top1, 3).float()
    assert all_agree(logits).tolist() == [1, 0, 0]
    assert pairs_agree(logits).tolist() == pytest.approx([1, 1 / 3, 0])


@pytest.mark.parametrize("metric", [all_agree, pairs_agree, js_divergence])
def test_agreement_needs_two_networks_with_finite_logits(
    metric: Callable[[Tensor], Tensor],
) -> None:
    logits = normal(2, 3, 4, seed=0)
    assert metric(logits[:1]).isnan().all()
    logits[0, 1, 2] = math.inf
    assert metric(logits).isnan().tolist() == [False, True, False]


def test_divergence_of_equal_networks_is_never_negative() -> None:
    logits = normal(1, 6, 4, seed=0)
    assert (js_divergence(logits.repeat(3, 1, 1)) == 0).all()


@given(networks=st.integers(2, 4), classes=st.integers(2, 5), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_divergence_is_that_of_scipy(networks: int, classes: int, seed: int) -> None:
    logits = 3 * normal(networks, 1, classes, seed=seed)
    p = softmax(logits[:, 0].numpy(), axis=1)
    # The distance of scipy is the square root of the divergence.
    expected = np.mean([jensenshannon(a, b) ** 2 for a, b in combinations(p, 2)])
    found = js_divergence(logits).item()
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 <= found <= math.log(2)
