"""Random weights in files, as if somebody had trained the networks on ImageNet at a small size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from prism_nb.core import fileio
from prism_nb.core.device import seeded
from prism_nb.data.imagenet import IMAGENET_CHANNELS
from prism_nb.models.weights import WeightsMetadata, to_safetensors
from prism_nb.models.zoo import build_network


def write_random(path: Path, architecture: str, classes: Sequence[str], image_size: int) -> None:
    """Write a network with random weights, and the order of its head's classes.

    Args:
        path: The .safetensors file.
        architecture: A name of `build_network`.
        classes: Folder names of the classes in the head's order.
        image_size: Side of the images that it is said to know, in pixels.
    """
    with seeded(0, torch.device("cpu")):
        network = build_network(architecture, classes=len(classes), image_size=image_size)
    mean, std = IMAGENET_CHANNELS
    metadata = WeightsMetadata(
        mean=mean, std=std, size=image_size, interpolation="bilinear", classes=tuple(classes)
    )
    content = to_safetensors(network.state_dict(), metadata)
    fileio.write_bytes(path, content)
