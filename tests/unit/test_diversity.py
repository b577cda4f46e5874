"""Intra-class cosine against closed forms and a literal double loop."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies

from prism_nb.diversity.cosine import intra_class_cosine


def test_identical_orthogonal_and_opposite_images() -> None:
    same = torch.tensor([[2.0, 0.0], [5.0, 0.0]])
    right_angle = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    opposite = torch.tensor([[1.0, 1.0], [-2.0, -2.0]])
    features = torch.cat([same, right_angle, opposite])
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    values = intra_class_cosine(features, classes, count=3)
    assert values.tolist() == pytest.approx([1, 0, -1], abs=1e-12)


def test_two_clusters_of_equal_size() -> None:
    features = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
    # 6 of the 15 pairs lie within a cluster.
    value = intra_class_cosine(features, torch.zeros(6, dtype=torch.int64), count=1)
    assert value.item() == pytest.approx(6 / 15)


@given(n=strategies.integers(2, 9), d=strategies.integers(1, 6), seed=strategies.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_it_equals_the_double_loop_and_ignores_scale_and_order(n: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows = features.tolist()

    def cosine(a: list[float], b: list[float]) -> float:
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))

    total = math.fsum(cosine(rows[i], rows[j]) for i in range(n) for j in range(i))
    expected = 2 * total / (n * (n - 1))
    zeros = torch.zeros(n, dtype=torch.int64)
    scaled = features[torch.randperm(n, generator=generator)] * torch.rand(n, 1).double().add(0.5)
    assert intra_class_cosine(features, zeros, count=1).item() == pytest.approx(expected, abs=1e-9)
    assert intra_class_cosine(scaled, zeros, count=1).item() == pytest.approx(expected, abs=1e-9)


def test_a_class_with_one_image_is_undefined_not_zero() -> None:
    values = intra_class_cosine(torch.randn(3, 4), torch.tensor([0, 0, 1]), count=2)
    assert torch.isfinite(values[0])
    assert torch.isnan(values[1])
