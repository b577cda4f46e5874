"""What a network makes of images: the same, in order, however many it looks at in one pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prism_nb.diversity import features as feature_module
from prism_nb.diversity.features import features_and_logits, features_of, iter_classes, logits_of

DATASET: Any = SimpleNamespace(canonical=lambda images: images.float() / 255)


class Seer(nn.Module):
    """Its features are an image's first three values, its logits the next four, in half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.passes: list[int] = []

    def features(self, images: Tensor) -> Tensor:
        return self.look(images)[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images)[1]

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.append(len(images))
        seen = images.flatten(1).half() * self.weight
        return seen[:, :3], seen[:, 3:7]


@pytest.fixture
def network() -> Any:
    return Seer()


@pytest.mark.parametrize(("count", "passes"), [(1, [1]), (4, [2, 2]), (5, [2, 2, 1])])
def test_images_are_seen_in_order_a_few_at_a_time(
    network: Any, monkeypatch: pytest.MonkeyPatch, count: int, passes: list[int]
) -> None:
    monkeypatch.setattr(feature_module, "_BATCH", 2)
    pixels = torch.randint(0, 256, (count, 3, 2, 2), dtype=torch.uint8)
    values = (pixels.float() / 255).flatten(1).half().float()
    features, logits = features_and_logits(network, pixels, DATASET)
    assert network.passes == passes
    assert features.dtype == logits.dtype == torch.float32
    assert torch.equal(features, values[:, :3])
    assert torch.equal(logits, values[:, 3:7])
    assert not features.requires_grad
    assert torch.equal(features_of(network, pixels, DATASET), features)
    assert torch.equal(logits_of(network, pixels, DATASET), logits)


def test_classes_come_in_order_and_whole(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_module, "_AT_ONCE", 7)  # two classes of three, and the fifth alone
    pixels = torch.arange(15 * 12).reshape(15, 3, 2, 2).to(torch.uint8)
    whole, _ = features_and_logits(network, pixels, DATASET)
    network.passes.clear()
    seen = iter_classes(lambda some: features_and_logits(network, some, DATASET), pixels, 5)
    assert torch.equal(torch.stack([features for features, _ in seen]), whole.reshape(5, 3, 3))
    assert network.passes == [6, 6, 3]
