"""Features and logits: in order in any batches, cached, and of the right real images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.data.distilled import load_images
from prism_nb.diversity import features as feature_module
from prism_nb.diversity.features import (
    cached,
    features_and_logits,
    features_of,
    iter_classes,
    logits_of,
    real_features,
)
from tests.helpers.linear_teacher import DIGITS, linear_teacher

DATASET: Any = SimpleNamespace(normalize=lambda images: images.float() / 255)


class FirstPixels(nn.Module):
    """Features are an image's first three values, logits the next four, in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.passes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.features_and_logits(images)[1]

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.append(len(images))
        values = images.flatten(1).half() * self.weight
        return values[:, :3], values[:, 3:7]


@pytest.fixture
def network() -> Any:
    return FirstPixels()


@pytest.mark.parametrize(("count", "passes"), [(1, [1]), (4, [2, 2]), (5, [2, 2, 1])])
def test_images_pass_in_order_and_in_batches(
    network: Any, monkeypatch: pytest.MonkeyPatch, count: int, passes: list[int]
) -> None:
    monkeypatch.setattr(feature_module, "_BATCH", 2)
    pixels = torch.randint(0, 256, (count, 3, 2, 2), dtype=torch.uint8)
    values = (pixels.float() / 255).flatten(1).half().float()
    features, logits = features_and_logits(network, pixels, DATASET)
    assert network.passes == passes
    assert torch.equal(features, values[:, :3])
    assert torch.equal(logits, values[:, 3:7])
    assert not features.requires_grad
    assert torch.equal(features_of(network, pixels, DATASET), features)
    assert torch.equal(logits_of(network, pixels, DATASET), logits)


def test_classes_come_in_order_and_whole(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_module, "_MAX_IMAGES", 7)  # two classes of three, the fifth alone
    pixels = torch.arange(15 * 12).reshape(15, 3, 2, 2).to(torch.uint8)
    whole = features_and_logits(network, pixels, DATASET)
    network.passes.clear()
    found = list(iter_classes(lambda some: features_and_logits(network, some, DATASET), pixels, 5))
    for tensor, classes in zip(whole, zip(*found, strict=True), strict=True):
        assert torch.equal(torch.stack(classes), tensor.reshape(5, 3, -1))
    assert network.passes == [6, 6, 3]


def test_outputs_are_computed_once_and_the_oldest_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def extract(network: Any, pixels: Tensor, dataset: Any) -> Tensor:
        calls.append(int(pixels.max()))
        return pixels.flatten(1).float()

    monkeypatch.setattr(feature_module, "_MAX_CACHED", 2)
    monkeypatch.setattr(feature_module, "_CACHE", {})
    teacher, pixels = linear_teacher("net"), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for value in (0, 0, 1, 0, 2, 0):
        found = cached(extract, teacher, pixels + value, DIGITS)
        assert torch.equal(found, torch.full((2, 192), float(value)))
    assert calls == [0, 1, 2, 0]
    cached(extract, linear_teacher("other"), pixels, DIGITS)
    assert len(calls) == 5


# -- real images -----------------------------------------------------------------------------


def test_the_reference_comes_first_and_is_not_among_the_others(tmp_path: Path) -> None:
    settings = load_settings("digits_quick", {"image_size": 8, "ipc": 3, "seed": 7})
    reference, _ = load_images(Run(tmp_path, settings), REFERENCE, DIGITS)
    real = real_features(DIGITS, linear_teacher("net"), reference=3, others=20, seed=7)
    first = np.concatenate([found.indices[:3] for found in real]).tolist()
    assert torch.equal(DIGITS.images("train", first), reference)
    for c, found in enumerate(real):
        assert len(set(found.indices.tolist())) == len(found.indices) == 23
        assert set(DIGITS.labels("train")[found.indices]) == {c}
        pixels = DIGITS.normalize(DIGITS.images("train", found.indices.tolist()))
        torch.testing.assert_close(found.features, pixels.flatten(1))
        assert torch.equal(found.others, found.features[3:])


def test_a_small_class_gives_what_it_has() -> None:
    real = real_features(DIGITS, linear_teacher("net"), reference=5, others=500, seed=0)
    counts = np.bincount(DIGITS.labels("train")).tolist()
    assert [len(found.others) for found in real] == [count - 5 for count in counts]


def test_real_images_pass_once_per_network() -> None:
    teacher, calls = linear_teacher("net"), []
    teacher.network.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        real_features(DIGITS, teacher, reference=2, others=10, seed=0)
    assert len(calls) == len(DIGITS.classes)
