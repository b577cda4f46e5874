"""Which block is the middle of a network, and its features by the path of production."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prism_nb.core.errors import UsageError
from prism_nb.models.middle import middle_block, middle_features
from prism_nb.models.runner import TeacherRunner
from prism_nb.models.zoo import build_on_meta
from tests.helpers.teachers import layer_inputs, teacher_of


@pytest.mark.parametrize(
    ("name", "size", "block"),
    [
        *[(f"resnet{depth}", 224, "layer2") for depth in (18, 34, 50)],
        *[("resnet18", 32, "layer2"), ("timm/resnet18", 160, "layer2")],
        ("vit_tiny_patch16_224", 224, "blocks.5"),
        ("vit_b_16", 224, "encoder.layers.encoder_layer_5"),
        ("convnext_tiny", 224, "features.3"),
        ("timm/convnext_atto", 224, "stages.1"),
        ("densenet121", 224, "features.denseblock2"),
        ("swin_t", 224, "features.3"),
        ("regnet_y_400mf", 224, "trunk_output.block2"),
        ("timm/coatnet_0_224", 224, "stages.1"),
        ("mobilenet_v2", 224, "features.8"),
        ("shufflenet_v2_x1_0", 224, "stage2"),
        ("alexnet", 224, "features.8"),  # a chain of layers without blocks
    ],
)
def test_the_middle_is_a_stage_or_block_in_the_second_quarter(
    name: str, size: int, block: str
) -> None:
    network = build_on_meta(name, classes=10, image_size=size)
    found = {module: name for name, module in network.named_modules()}[middle_block(network)]
    assert found == block


@pytest.mark.parametrize("size", [32, 100])  # 100: maps of 25, 13, 7 and 4 pixels
def test_of_resnet18_the_features_enter_layer3(size: int) -> None:
    teacher = teacher_of("resnet18", size=size)
    images = torch.randn(3, 3, size, size)
    _, (expected,) = layer_inputs(teacher.network, [teacher.network.layer3], images)
    assert torch.equal(TeacherRunner(teacher).middle_features(images), expected)


class _Pair(nn.Sequential):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        return x, x


def test_networks_without_features_are_refused() -> None:
    images = torch.zeros(2, 3, 4, 4)
    single = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    pair = nn.Sequential(_Pair(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), *[nn.Linear(4, 4)] * 2)
    pair.append(nn.Linear(4, 4))
    for network in (single, pair):
        with pytest.raises(UsageError, match="its middle gives no features to match"):
            middle_features(network, network, images)
