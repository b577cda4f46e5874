"""Initial images: noise, or real training images."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.data.subset import random_real
from prism_nb.plans.batches import Batch


def initial_images(
    kind: str, batch: Batch, dataset: ImageDataset, *, seed: int, generator: torch.Generator
) -> Tensor:
    """Return what a unit starts from, canonical [N, 3, S, S] on the CPU.

    Args:
        kind: `noise`: standard normal. `real`: for slot k of a class its k-th training image in
            file order. `real_random`: the k-th of a shuffle of the class.
        batch: The unit's images.
        dataset: The real images.
        seed: The run's seed; it decides `real_random` whatever the batches are.
        generator: The unit's generator; it decides `noise`.
    """
    members = batch.members()
    if kind == "noise":
        size = dataset.image_size
        return torch.randn(len(members), 3, size, size, generator=generator)
    if kind == "real_random":
        return dataset.canonical(random_real(dataset, members, seed=seed, tag="initial"))
    places = [int(dataset.of_class("train", c)[slot]) for c, slot in members]
    return dataset.canonical(dataset.images("train", places))
