"""Frozen teachers: what a pass returns, and that it changes nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from prism_nb.core.errors import UsageError
from prism_nb.models.teacher import PreprocessConfig, Teacher, check_bn, check_conv
from prism_nb.models.zoo import build_network
from tests.helpers.teachers import ARCHITECTURES, MEAN, STD, teacher_of

DATASET = PreprocessConfig(MEAN, STD, 32)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_passes_and_gradients_change_nothing_of_a_teacher(name: str) -> None:
    teacher = teacher_of(name)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    teacher.train()
    logits, measured = teacher.forward_with_stats(images, teacher.bn_layer_stats)
    (logits.sum() + measured[-1].var.sum()).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", "test_mambaout"])
def test_the_head_turns_features_into_logits(name: str) -> None:
    teacher = teacher_of(name)
    images = torch.randn(3, 3, 32, 32)
    head = [m for m in teacher.network.modules() if isinstance(m, nn.Linear)][-1]
    features, logits = teacher.features_and_logits(images)
    assert torch.equal(logits, teacher(images))
    assert torch.allclose(head(features), logits, atol=1e-5)
    assert not head._forward_pre_hooks  # there is no public way to list hooks


# -- preprocessing ---------------------------------------------------------------------------


def test_equal_preprocessing_is_the_identity() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert teacher_of("test_resnet").preprocess(images) is images


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_converted_to_the_networks_own_pixels(size: int, interpolation: str) -> None:
    native = PreprocessConfig(*IMAGENET, size, interpolation)
    network = build_network("test_resnet", classes=10, image_size=size)
    teacher = Teacher("test_resnet", network, native=native, dataset=DATASET)
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    found = teacher.preprocess((pixels - 0.5) / 0.25)
    resized = functional.interpolate(pixels, (size, size), mode=interpolation, antialias=True)
    for channel in range(3):
        expected = (resized[:, channel] - native.mean[channel]) / native.std[channel]
        assert torch.allclose(found[:, channel], expected, atol=1e-6)


# -- refusals --------------------------------------------------------------------------------


def test_networks_without_the_layers_of_their_role_are_refused() -> None:
    untracked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    check_conv("mine", untracked)
    for network in (untracked, build_network("test_convnext", classes=10, image_size=32)):
        with pytest.raises(UsageError, match="mine.*no BN layers with running statistics"):
            check_bn("mine", network)
    with pytest.raises(UsageError, match="no convolutions"):
        check_conv("mine", nn.Linear(2, 2))
