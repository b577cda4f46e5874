"""What a network is made of: the figures that a researcher chooses teachers by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prism_nb.teachers.networks import source_of


@dataclass(frozen=True)
class NetworkFacts:
    """A network in numbers.

    Attributes:
        name: Its name.
        source: torchvision or timm.
        parameters: Trainable values.
        flops: Floating-point operations of one image's forward pass; a multiply-add is two.
        bn_layers: BatchNorm2d layers.
        bn_channels: Channels over all of them: values per statistic.
    """

    name: str
    source: str
    parameters: int
    flops: int
    bn_layers: int
    bn_channels: int


def inspect_network(name: str, network: nn.Module, *, image_size: int) -> NetworkFacts:
    """Count a network's parts, at one image of the given side."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return NetworkFacts(
        name=name,
        source=source_of(name),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=count_flops(network, image_size=image_size),
        bn_layers=len(layers),
        bn_channels=sum(layer.num_features for layer in layers),
    )


def count_flops(network: nn.Module, *, image_size: int) -> int:
    """Count the operations of one image's forward pass, matrix products and convolutions only."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(was_training)
    return int(counter.get_total_flops())
