"""Initial images: noise, or real training images."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.plans.batches import Batch


def noise(batch: Batch, dataset: ImageDataset, generator: torch.Generator) -> Tensor:
    """Return standard normal noise in canonical space, [N, 3, S, S] on the CPU."""
    size = dataset.image_size
    return torch.randn(len(batch.members()), 3, size, size, generator=generator)


def real_in_order(batch: Batch, dataset: ImageDataset) -> Tensor:
    """Return, for slot k of a class, its k-th training image in file order, canonical."""
    places = [int(dataset.of_class("train", c)[slot]) for c, slot in batch.members()]
    return dataset.canonical(dataset.images("train", places))
