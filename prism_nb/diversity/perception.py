"""What a network makes of images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.teachers.teacher import Teacher

_BATCH = 256


def features_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return penultimate features, float32 [N, d] on the CPU, of uint8 images [N, 3, S, S]."""
    return _batched(network.features, network, pixels, dataset)


def logits_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return logits, float32 [N, classes] on the CPU, of uint8 images [N, 3, S, S]."""
    return _batched(network, network, pixels, dataset)


@torch.no_grad()
def _batched(
    see: Callable[[Tensor], Tensor], network: Teacher, pixels: Tensor, dataset: ImageDataset
) -> Tensor:
    device = next(network.parameters()).device
    parts = pixels.split(_BATCH)
    return torch.cat([see(dataset.canonical(part.to(device))).float().cpu() for part in parts])
