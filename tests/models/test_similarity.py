"""Similarity of networks against slow copies of the formulas, and by what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_nb.core.config import build_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.models.similarity import IMAGES, compare_networks, linear_cka, prediction_agreement
from prism_nb.models.zoo import build_network


def features(seed: int, width: int, count: int = 12) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double() + 3


def slow_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the formula's value, from products of the features themselves."""
    a, b = x - x.mean(0), y - y.mean(0)
    norms = [(m.T @ n).square().sum() for m, n in ((b, a), (a, a), (b, b))]
    return float(norms[0] / (norms[1].sqrt() * norms[2].sqrt()))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 6), other=st.integers(1, 20))
def test_cka_is_its_formula(seed: int, width: int, other: int) -> None:
    x, y = features(seed, width), features(seed + 1, other)
    assert linear_cka(x, y) == pytest.approx(slow_cka(x, y), abs=1e-12)
    assert 0 <= linear_cka(x, y) <= 1 + 1e-12
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), abs=1e-12)


def test_cka_of_orthogonal_signals_is_0_and_of_constant_ones_no_number() -> None:
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, y) == 0
    assert math.isnan(linear_cka(x, torch.full((4, 1), 0.25)))


def test_agreement_counts_equal_classes() -> None:
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    y = torch.tensor([[9.0, 0], [0, 9], [0, 9], [8, 9]])
    assert prediction_agreement(x, y) == 0.75


def test_networks_that_are_not_here_are_named_with_a_reason(tmp_path, settings: Settings) -> None:
    run = Run.create(tmp_path / "r", settings)
    found = compare_networks(run, ["test_resnet", "resnet18@IMAGENET1K_V1"])
    assert found.names == ()
    assert found.missing == dict.fromkeys(
        ["test_resnet", "resnet18@IMAGENET1K_V1"], "not trained or fetched yet"
    )
    assert found.cka.shape == found.agreement.shape == (0, 0)


def test_networks_from_files_are_compared_on_real_images(tmp_path, settings: Settings) -> None:
    names = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = tmp_path / f"w{seed}.pth"
        torch.save(build_network("test_resnet", classes=10, image_size=32).state_dict(), path)
        names.append(f"test_resnet@{path}")
    own = build_settings(
        {**settings.plain(), "teachers": names, "primary": names[0]}, where="a test"
    )
    found = compare_networks(Run.create(tmp_path / "r", own), names)
    assert found.images == IMAGES
    assert found.names == tuple(names)
    assert found.cka.diagonal() == pytest.approx([1, 1])
    assert found.cka[0, 1] == pytest.approx(found.cka[1, 0])
    assert 0 <= found.cka[0, 1] < 1
    assert found.agreement.diagonal().tolist() == [1, 1]
