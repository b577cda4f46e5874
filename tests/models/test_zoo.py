"""Networks by name: their libraries, their stems, their numbers, and trial passes."""

import re

import pytest
import torch
from torch import nn

from prism_nb.core.errors import UsageError
from prism_nb.models.architectures import resolve_architecture
from prism_nb.models.zoo import build_network, check_forward, check_options, count_flops

# -- stems -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "conv", "last"),
    [
        ("resnet18", "conv1", 4),
        ("densenet121", "features.conv0", 4),
        ("shufflenet_v2_x0_5", "conv1.0", 4),
        ("mobilenet_v2", "features.0.0", 2),
        ("mobilenet_v3_small", "features.0.0", 2),
        ("efficientnet_b0", "features.0.0", 2),
        ("mnasnet0_5", "layers.0", 2),
        ("regnet_y_400mf", "stem.0", 2),
    ],
)
def test_stems_keep_all_pixels_of_small_images_only(name: str, conv: str, last: int) -> None:
    small = build_network(name, classes=10, image_size=32).eval()
    sides: list[int] = []
    for layer in small.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    small(torch.randn(1, 3, 32, 32))
    assert (sides[0], sides[-1]) == (32, last)
    assert small.get_submodule(conv).kernel_size == (3, 3)
    large = build_network(name, classes=10, image_size=96)
    assert large.get_submodule(conv).stride == (2, 2)


@pytest.mark.parametrize("name", ["test_resnet", "timm/densenet121", "timm/mobilenetv2_100"])
def test_timms_stems_of_other_shapes_stay(name: str) -> None:
    for size in (32, 96):
        network = build_network(name, classes=10, image_size=size)
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        assert first.stride == (2, 2)


# -- numbers ---------------------------------------------------------------------------------


def test_flops_of_a_convolution_count_two_per_multiply_add() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False))
    assert count_flops(network, image_size=16) == 2 * 16 * 16 * 8 * 3 * 9


# -- weights and trial passes ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_byobnet", "mnasnet0_5"])
def test_a_trial_changes_neither_network_nor_generator(name: str) -> None:
    network = build_network(name, classes=10, image_size=32)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    check_forward(name, network, classes=10, image_size=32)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_efficientnet", {"pad_tipe": "same"}, "unexpected keyword argument 'pad_tipe'"),
        ("test_efficientnet", {"pad_type": "sane"}, "pad_type 'sane' is none of"),
        ("timm/resnet18", {"pad_type": "same"}, "unexpected keyword argument 'pad_type'"),
        ("resnet18", {"bn_eps": 0.001}, "unexpected keyword argument 'bn_eps'"),
        ("resnet18", {"width_per_group": 128}, "BasicBlock only supports"),
        ("test_resnet", {"checkpoint_path": "w.pth"}, "checkpoint_path cannot be set"),
        ("test_resnet", {"act_layer": "relu", "pretrained": True}, "pretrained cannot be set"),
    ],
)
def test_arguments_that_a_builder_does_not_take_are_refused(
    name: str, options: dict[str, str | int | float | bool], message: str
) -> None:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    start = re.escape(f"build in w.yaml: {resolve_architecture(name)[0]} does not make ")
    with pytest.raises(UsageError, match=f"^{start}.*{given}: .*{message}.*; correct"):
        check_options(name, tuple(options.items()), image_size=64, where="w.yaml")


def test_an_argument_that_changes_no_layer_is_warned_of() -> None:
    options = (("drop_rate", 0.0), ("bn_eps", 0.001))
    with pytest.warns(UserWarning, match=r"drop_rate=0.0 changes no layer") as found:
        check_options("test_efficientnet", options, image_size=64, where="w.yaml")
    assert len(found) == 1
