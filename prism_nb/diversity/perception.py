"""What a network makes of images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.teachers.teacher import Teacher

_BATCH = 256
_AT_ONCE = 4096  # images whose outputs are held at a time, in whole classes

See = Callable[[Tensor], tuple[Tensor, ...]]


def look_at(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Return features and logits, as `features_of` and `logits_of`, in one pass."""
    features, logits = _batched(network.look, network, pixels, dataset)
    return features, logits


def features_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return penultimate features, float32 [N, d] on the CPU, of uint8 images [N, 3, S, S]."""
    return _batched(lambda images: (network.features(images),), network, pixels, dataset)[0]


def logits_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return logits, float32 [N, classes] on the CPU, of uint8 images [N, 3, S, S]."""
    return _batched(lambda images: (network(images),), network, pixels, dataset)[0]


def class_by_class(see: See, pixels: Tensor, classes: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield what is seen in the images of each class, holding that of a few thousand at a time.

    Args:
        see: Returns tensors with a row per image, of uint8 images.
        pixels: uint8 [classes x n, 3, S, S], class by class.
        classes: Number of classes.

    Yields:
        For each class in order, the n rows of each tensor.
    """
    each = len(pixels) // classes
    for part in pixels.split(max(1, _AT_ONCE // each) * each):
        yield from zip(*(seen.split(each) for seen in see(part)), strict=True)


@torch.no_grad()
def _batched(
    see: See, network: Teacher, pixels: Tensor, dataset: ImageDataset
) -> tuple[Tensor, ...]:
    device = next(network.parameters()).device
    parts = (dataset.canonical(part.to(device)) for part in pixels.split(_BATCH))
    seen = [[each.float().cpu() for each in see(part)] for part in parts]
    return tuple(torch.cat(each) for each in zip(*seen, strict=True))
