"""Teachers of random weights, and the plain way to their layers' inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.models.zoo import build_network

ARCHITECTURES = ("mobilenet_v2", "shufflenet_v2_x0_5", "test_efficientnet")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def teacher_of(name: str, *, size: int = 32, double: bool = False) -> Teacher:
    """Return a network of ten classes with random weights and random running statistics."""
    torch.manual_seed(0)
    network = build_network(name, classes=10, image_size=size)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    preprocess = PreprocessConfig(MEAN, STD, size)
    teacher = Teacher(name, network, native=preprocess, dataset=preprocess)
    return teacher.double() if double else teacher


def layer_inputs(
    network: nn.Module, layers: Sequence[nn.Module], images: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return logits, and the input of each layer, by forward hooks."""
    inputs: dict[nn.Module, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda m, given, _: inputs.update({m: given[0]}))
        for layer in layers
    ]
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, [inputs[layer] for layer in layers]
