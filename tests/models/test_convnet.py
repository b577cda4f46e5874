"""ConvNet-3: the published layers, padding and number of parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from prism_nb.models.convnet import ConvNet3
from prism_nb.models.zoo import build_network, check_forward, network_info


@pytest.mark.parametrize(
    ("name", "norm"), [("convnet3", "GroupNorm"), ("convnet3_bn", "BatchNorm2d")]
)
def test_layers_are_in_the_published_order(name: str, norm: str) -> None:
    network = build_network(name, classes=10, image_size=32)
    layers = [type(m).__name__ for m in network.modules() if not list(m.children())]
    assert layers == ["Conv2d", norm, "ReLU", "AvgPool2d"] * 3 + ["Linear"]


# 320,010 for CIFAR-10, as published: 3 x 128 x 9 + 128, two times 128 x 128 x 9 + 128, three times
# 2 x 128 of the normalisation, and 128 x 4 x 4 x 10 + 10.
@pytest.mark.parametrize("size", [28, 32])
def test_the_number_of_parameters_is_the_published_one(size: int) -> None:
    network = build_network("convnet3", classes=10, image_size=size)
    assert sum(parameter.numel() for parameter in network.parameters()) == 320_010
    check_forward("convnet3", network, classes=10, image_size=size)


def test_images_of_28_pixels_are_padded_to_32() -> None:
    torch.manual_seed(0)
    network = build_network("convnet3", classes=10, image_size=28)
    wide = build_network("convnet3", classes=10, image_size=32)
    wide.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 28, 28)
    padded = wide(functional.pad(images, (2, 2, 2, 2)))
    assert torch.allclose(network(images), padded, atol=1e-5)


def test_instances_are_normalised_each_alone() -> None:
    torch.manual_seed(0)
    network = build_network("convnet3", classes=10, image_size=32)
    assert isinstance(network, ConvNet3)
    images = torch.rand(2, 3, 32, 32)
    found = network.features[:2](images)
    assert torch.allclose(found, functional.instance_norm(network.features[0](images)), atol=1e-5)


def test_the_kits_networks_are_listed_as_the_libraries_are() -> None:
    info = network_info(
        "convnet3_bn", build_network("convnet3_bn", classes=10, image_size=28), image_size=28
    )
    assert (info.source, info.bn_layers, info.bn_channels) == ("kit", 3, 384)
    assert nn.Linear in map(type, build_network("kit/convnet3", classes=7, image_size=32).modules())
