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
    device, found = next(network.parameters()).device, tuple[Tensor, ...]()
    for begin in range(0, len(pixels), _BATCH):
        rows = slice(begin, begin + _BATCH)
        seen = see(dataset.canonical(pixels[rows].to(device)))
        # Room for all of it is taken once: parts would lie strewn among what the passes use, and
        # the memory between two of them would be too small to be used again.
        found = found or tuple(torch.empty(len(pixels), *each.shape[1:]) for each in seen)
        for whole, each in zip(found, seen, strict=True):
            whole[rows] = each
    return found
