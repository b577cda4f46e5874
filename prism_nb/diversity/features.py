"""Features and logits of images: extraction in batches, a cache, and those of real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.torch_io import hash_tensors
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import REFERENCE_TAG, shuffled_indices
from prism_nb.diversity.metrics import neighbour_radii
from prism_nb.models.teacher import Teacher

_BATCH = 256
_MAX_IMAGES = 4096  # whose outputs `iter_classes` holds at a time
_MAX_CACHED = 16  # results of `cached`, of some 16 MB each


def features_and_logits(
    network: Teacher, pixels: Tensor, dataset: ImageDataset
) -> tuple[Tensor, Tensor]:
    """Return penultimate features [N, d] and head logits [N, head], float32 on the CPU.

    Pixels are uint8 [N, 3, S, S].
    """
    features, logits = _in_batches(network.features_and_logits, network, pixels, dataset)
    return features, logits


def features_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return the features of `features_and_logits`."""
    return features_and_logits(network, pixels, dataset)[0]


def logits_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return logits [N, classes], float32 on the CPU, of a network that need not give features."""
    return _in_batches(lambda images: (network(images),), network, pixels, dataset)[0]


@torch.no_grad()
def _in_batches(
    forward: Callable[[Tensor], tuple[Tensor, ...]],
    network: Teacher,
    pixels: Tensor,
    dataset: ImageDataset,
) -> tuple[Tensor, ...]:
    device, whole = next(network.parameters()).device, tuple[Tensor, ...]()
    for start in range(0, len(pixels), _BATCH):
        rows = slice(start, start + _BATCH)
        outputs = forward(dataset.normalize(pixels[rows].to(device)))
        # Allocated once: concatenating batches would fragment the memory.
        whole = whole or tuple(torch.empty(len(pixels), *out.shape[1:]) for out in outputs)
        for tensor, out in zip(whole, outputs, strict=True):
            tensor[rows] = out
    return whole


def iter_classes(
    extract: Callable[[Tensor], tuple[Tensor, ...]], pixels: Tensor, classes: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the outputs for the images of each class, holding those of a few thousand at a time.

    `extract` maps uint8 images [n, 3, S, S] to tensors with a row per image; pixels come class by
    class.
    """
    each = len(pixels) // classes
    for chunk in pixels.split(max(1, _MAX_IMAGES // each) * each):
        yield from zip(*(output.split(each) for output in extract(chunk)), strict=True)


_T = TypeVar("_T")
_CACHE: dict[tuple[Callable[..., Any], Teacher, str], Any] = {}


def cached(
    extract: Callable[[Teacher, Tensor, ImageDataset], _T],
    network: Teacher,
    pixels: Tensor,
    dataset: ImageDataset,
) -> _T:
    """Return `extract(network, pixels, dataset)`, computed once per process for the same pixels.

    The result is shared: do not change it.
    """
    key = (extract, network, hash_tensors({"pixels": pixels}))
    if key not in _CACHE:
        if len(_CACHE) >= _MAX_CACHED:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = extract(network, pixels, dataset)
    found: _T = _CACHE[key]
    return found


@dataclass(frozen=True)
class RealFeatures:
    """Features of real training images of one class: the reference first, then others."""

    reference: int  # number of images of the reference
    indices: np.ndarray  # index of each image in the training split, int64 [m]
    features: Tensor  # penultimate features [m, d]
    radii: Tensor  # result of `neighbour_radii` for `others` [m - reference]

    @classmethod
    def none(cls, width: int) -> Self:
        """Return those of a class without real images, for features of a width."""
        return cls(0, np.empty(0, np.int64), torch.empty(0, width), torch.empty(0))

    @property
    def others(self) -> Tensor:
        """Features of the images outside the reference [m - reference, d]."""
        return self.features[self.reference :]


# Once per process and network, since all methods are compared with the same images.
@lru_cache(maxsize=4)
def real_features(
    dataset: ImageDataset, network: Teacher, *, reference: int, others: int, seed: int
) -> tuple[RealFeatures, ...]:
    """Return features of each class's reference images and of other training images.

    One shuffle gives both, so that the reference is never compared with itself. `reference` and
    `others` are images per class; there are fewer others where a class has fewer.
    """
    classes = []
    for c in range(len(dataset.classes)):
        shuffled = shuffled_indices(dataset, c, seed=seed, tag=REFERENCE_TAG)
        indices = shuffled[: reference + others]
        features = features_of(network, dataset.images("train", indices.tolist()), dataset)
        radii = neighbour_radii(features[reference:])
        classes.append(RealFeatures(reference, indices, features, radii))
    return tuple(classes)
