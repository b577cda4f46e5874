"""Measures of one class: closed forms, literal float64 loops, and what must not matter."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from prism_nb.diversity.metrics import (
    centroid_cosine,
    density_coverage,
    distances,
    intra_class_cosine,
    mean_distance_to_centroid,
    nearest_in_class,
    nearest_real,
    neighbour_radii,
    normalize_rows,
    rows_normalizable,
    vendi_score,
)

IN_CLASS = (
    intra_class_cosine,
    centroid_cosine,
    vendi_score,
    mean_distance_to_centroid,
    nearest_in_class,
)
OF_DIRECTIONS = (intra_class_cosine, centroid_cosine, vendi_score, nearest_in_class)
SIZES = {"n": st.integers(2, 9), "d": st.integers(2, 6), "seed": st.integers(0, 999)}
ORTHOGONAL = 3 * torch.eye(4)
SAME = torch.tensor([[1.0, 2.0]]).repeat(4, 1) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
CLUSTERS = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
OPPOSITE = torch.tensor([[1.0, 1.0], [-2.0, -2.0]])

Rows = list[list[float]]
Measure = Callable[[Tensor], float]


def features_of(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(a: list[float], b: list[float]) -> float:
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def scaled(row: list[float]) -> list[float]:
    length = gap(row, [0.0] * len(row))
    return [value / length for value in row]


def literal_cosine(rows: Rows) -> float:
    z, n = [scaled(row) for row in rows], len(rows)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    dots = [math.fsum(x * y for x, y in zip(z[i], z[j], strict=True)) for i, j in pairs]
    return 2 * math.fsum(dots) / (n * (n - 1))


def literal_centroid(rows: Rows) -> float:
    z = [scaled(row) for row in rows]
    centre = [math.fsum(column) / len(z) for column in zip(*z, strict=True)]
    centre = scaled(centre)
    dots = [math.fsum(x * c for x, c in zip(row, centre, strict=True)) for row in z]
    return math.fsum(dots) / len(z)


def literal_vendi(rows: Rows) -> float:
    z = [scaled(row) for row in rows]
    kernel = [[math.fsum(x * y for x, y in zip(a, b, strict=True)) for b in z] for a in z]
    values = np.linalg.svd(np.array(kernel) / len(z), compute_uv=False)
    return math.exp(-math.fsum(e * math.log(e) for e in values.tolist() if e > 1e-14))


def literal_radius(rows: Rows) -> float:
    centre = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return math.fsum(gap(row, centre) for row in rows) / len(rows)


def literal_nearest(rows: Rows) -> float:
    z = [scaled(row) for row in rows]
    nearest = [min(gap(a, b) for j, b in enumerate(z) if j != i) for i, a in enumerate(z)]
    return math.fsum(nearest) / len(z)


LITERAL = dict(
    zip(
        IN_CLASS,
        (literal_cosine, literal_centroid, literal_vendi, literal_radius, literal_nearest),
        strict=True,
    )
)


@pytest.mark.parametrize(
    ("measure", "features", "value"),
    [
        (intra_class_cosine, ORTHOGONAL, 0),
        (intra_class_cosine, SAME, 1),
        (intra_class_cosine, OPPOSITE, -1),
        (intra_class_cosine, CLUSTERS, 6 / 15),  # 6 of the 15 pairs lie within a cluster
        (centroid_cosine, ORTHOGONAL, 1 / 2),
        (centroid_cosine, SAME, 1),
        (centroid_cosine, CLUSTERS, math.sqrt(1 / 2)),
        (vendi_score, ORTHOGONAL, 4),
        (vendi_score, SAME, 1),
        (vendi_score, CLUSTERS, 2),
        (vendi_score, OPPOSITE, 1),
        (mean_distance_to_centroid, ORTHOGONAL, 3 * math.sqrt(3) / 2),
        (mean_distance_to_centroid, torch.ones(3, 2), 0),
        (mean_distance_to_centroid, CLUSTERS, math.sqrt(1 / 2)),
        (mean_distance_to_centroid, OPPOSITE, 1.5 * math.sqrt(2)),
        (nearest_in_class, ORTHOGONAL, math.sqrt(2)),
        (nearest_in_class, SAME, 0),
        (nearest_in_class, CLUSTERS, 0),
        (nearest_in_class, OPPOSITE, 2),
    ],
)
def test_closed_forms(measure: Measure, features: Tensor, value: float) -> None:
    assert measure(features) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("measure", IN_CLASS, ids=lambda measure: measure.__name__)
@given(**SIZES)
@settings(max_examples=40, deadline=None)
def test_each_equals_its_loop_in_any_order(measure: Measure, n: int, d: int, seed: int) -> None:
    features = features_of(n, d, seed)
    expected = LITERAL[measure](features.tolist())
    shuffled = features[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    assert measure(features) == pytest.approx(expected, abs=1e-9)
    assert measure(shuffled) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", OF_DIRECTIONS, ids=lambda measure: measure.__name__)
@given(**SIZES)
@settings(max_examples=25, deadline=None)
def test_lengths_do_not_matter_to_directions(measure: Measure, n: int, d: int, seed: int) -> None:
    features = features_of(n, d, seed)
    lengths = features_of(n, 1, seed + 1).abs() + 0.1
    assert measure(features * lengths) == pytest.approx(measure(features), abs=1e-9)
    assert mean_distance_to_centroid(3 * features) == pytest.approx(
        3 * mean_distance_to_centroid(features)
    )


@given(**SIZES)
@settings(max_examples=60, deadline=None)
def test_ranges_and_the_order_of_both_cosines(n: int, d: int, seed: int) -> None:
    features = features_of(n, d, seed)
    assert 1 - 1e-9 <= vendi_score(features) <= min(n, d) + 1e-9
    assert -1 / (n - 1) - 1e-9 <= intra_class_cosine(features) <= 1 + 1e-9
    assert centroid_cosine(features) >= intra_class_cosine(features) - 1e-9


def test_doubles_leave_the_vendi_score_as_it_is() -> None:
    features = features_of(5, 7, 0)
    assert vendi_score(features.repeat(3, 1)) == pytest.approx(vendi_score(features))


@pytest.mark.parametrize("measure", IN_CLASS, ids=lambda measure: measure.__name__)
def test_one_image_and_features_that_are_not_finite_are_undefined(measure: Measure) -> None:
    assert math.isnan(measure(torch.ones(1, 3)))
    assert math.isnan(measure(torch.tensor([[1.0, 2.0], [math.nan, 1.0]])))


@pytest.mark.parametrize("measure", OF_DIRECTIONS, ids=lambda measure: measure.__name__)
def test_a_feature_of_zeros_has_no_direction(measure: Measure) -> None:
    features = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert math.isnan(measure(features))
    assert not rows_normalizable(features)
    assert rows_normalizable(features[:1])


def test_equal_rows_lie_at_distance_zero_exactly() -> None:
    features = (1000 + features_of(30, 64, 0)).float()
    assert (distances(features, features).diagonal() == 0).all()


# -- among real images -----------------------------------------------------------------------


@given(n=st.integers(1, 8), m=st.integers(1, 9), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_nearest_training_images_are_those_of_scikit_learn(n: int, m: int, seed: int) -> None:
    features, real = features_of(n, 4, seed), features_of(m, 4, seed + 1)
    found, places = nearest_real(features, real)
    index = NearestNeighbors(n_neighbors=1).fit(normalize_rows(real).numpy())
    expected, where = index.kneighbors(normalize_rows(features).numpy())
    np.testing.assert_allclose(found.numpy(), expected[:, 0], atol=1e-9)
    assert places.tolist() == where[:, 0].tolist()


def test_a_copy_is_found_with_its_place() -> None:
    real = features_of(20, 8, 0)
    found, places = nearest_real(real[[7, 3]], real)
    assert found.tolist() == [0, 0]
    assert places.tolist() == [7, 3]


def literal_density_coverage(made: Rows, real: Rows, k: int) -> tuple[float, float]:
    apart = [[gap(a, b) for j, b in enumerate(real) if j != i] for i, a in enumerate(real)]
    reach = [sorted(row)[k - 1] for row in apart]
    inside = [[gap(f, r) < reach[i] * (1 - 1e-5) for i, r in enumerate(real)] for f in made]
    density = sum(map(sum, inside)) / (k * len(made))
    return density, sum(any(column) for column in zip(*inside, strict=True)) / len(real)


@given(n=st.integers(1, 8), m=st.integers(4, 10), k=st.integers(1, 3), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_density_and_coverage_equal_their_loops(n: int, m: int, k: int, seed: int) -> None:
    made, real = features_of(n, 3, seed), features_of(m, 3, seed + 1)
    found = density_coverage(made, real, neighbour_radii(real, k), k)
    expected = literal_density_coverage(made.tolist(), real.tolist(), k)
    assert found == pytest.approx(expected, abs=1e-12)


def test_radii_are_those_of_scikit_learn() -> None:
    real = features_of(40, 6, 0)
    index = NearestNeighbors(n_neighbors=6).fit(real.numpy())  # the image itself is the first
    np.testing.assert_allclose(neighbour_radii(real).numpy(), index.kneighbors()[0][:, 4])


def test_density_and_coverage_of_a_line() -> None:
    real = torch.arange(7.0)[:, None]  # reach to the 5th neighbour: 5 4 3 3 3 4 5
    radii = neighbour_radii(real)
    assert radii.tolist() == [5, 4, 3, 3, 3, 4, 5]
    # In the middle lie the neighbourhoods of all; at 100 that of none.
    assert density_coverage(real[3:4], real, radii) == (7 / 5, 1)
    assert density_coverage(torch.tensor([[100.0]]), real, radii) == (0, 0)
    assert density_coverage(torch.tensor([[3.0], [100.0]]), real, radii) == (7 / 10, 1)


def test_a_copy_on_the_rim_is_outside_however_it_is_rounded() -> None:
    real = 10 + features_of(40, 16, 0)
    radii = neighbour_radii(real)
    exact = density_coverage(real, real, radii)
    assert exact[0] == pytest.approx(1)  # itself and the four neighbours within the rim
    for seed in range(5):
        rounded = real * (1 + 1e-7 * features_of(40, 16, seed))
        assert density_coverage(rounded, real, radii) == exact


def test_too_few_real_images_are_undefined_and_so_are_features_that_are_not_finite() -> None:
    five, six = features_of(5, 2, 0), features_of(6, 2, 0)
    assert neighbour_radii(five).isnan().all()
    assert neighbour_radii(six).isfinite().all()
    assert all(map(math.isnan, density_coverage(six, five, neighbour_radii(five))))
    broken = torch.full((1, 2), math.nan)
    assert all(map(math.isnan, density_coverage(broken, six, neighbour_radii(six))))
    assert all(map(math.isnan, density_coverage(six, six[:0], neighbour_radii(six[:0]))))
