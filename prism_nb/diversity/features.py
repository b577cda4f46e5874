"""Features and logits of images: extraction in batches, a cache, real images, teachers' scores."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.run import Run
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import REFERENCE_TAG, shuffled_indices
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.metrics import js_divergence, neighbour_radii, pairs_agree
from prism_nb.models.pool import load_teacher
from prism_nb.models.teacher import Teacher

_BATCH = 256
_MAX_IMAGES = 4096  # whose outputs `iter_classes` holds at a time
_CACHE_BYTES = 256 * 2**20


def features_and_logits(
    network: Teacher, pixels: Tensor, dataset: ImageDataset
) -> tuple[Tensor, Tensor]:
    """Return penultimate features [N, d] and logits [N, classes], in one pass.

    Args:
        network: The network.
        pixels: uint8 images [N, 3, S, S].
        dataset: The dataset whose mean and std normalize the images.

    Returns:
        Both as float32 on the CPU.
    """
    features, logits = _in_batches(network.features_and_logits, network, pixels, dataset)
    return features, logits


def features_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return the features of `features_and_logits`."""
    return features_and_logits(network, pixels, dataset)[0]


def logits_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return the logits of `features_and_logits`, of a network that may have no linear head."""
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

    Args:
        extract: Function from uint8 images [n, 3, S, S] to tensors with a row per image.
        pixels: uint8 [classes * n, 3, S, S], class by class.
        classes: Number of classes.

    Yields:
        For each class in order, the n rows of each tensor.
    """
    each = len(pixels) // classes
    for chunk in pixels.split(max(1, _MAX_IMAGES // each) * each):
        yield from zip(*(output.split(each) for output in extract(chunk)), strict=True)


Extractor = Callable[[Teacher, Tensor, ImageDataset], Tensor]


class FeatureCache:
    """Features and logits in memory; the least recently used are dropped first.

    Args:
        max_bytes: Largest size of the cache, in bytes.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Extractor, Teacher, str], Tensor] = OrderedDict()

    def get(
        self, extract: Extractor, network: Teacher, pixels: Tensor, dataset: ImageDataset
    ) -> Tensor:
        """Return `extract(network, pixels, dataset)`, computed once for the same pixels.

        The result is shared: do not change it.
        """
        data = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        content = hashlib.sha256(data.tobytes() + repr(data.shape).encode()).hexdigest()
        key = (extract, network, content)
        if key not in self._entries:
            self._entries[key] = extract(network, pixels, dataset)
        self._entries.move_to_end(key)
        found = self._entries[key]
        while sum(tensor.nbytes for tensor in self._entries.values()) > self._max_bytes:
            self._entries.popitem(last=False)
        return found


FEATURE_CACHE = FeatureCache()


@dataclass(frozen=True)
class RealFeatures:
    """Features of real training images of one class: the reference first, then others.

    Attributes:
        reference: Number of images of the reference.
        indices: Index of each image in the training split, int64 [m].
        features: Penultimate features [m, d].
        radii: Result of `neighbour_radii` for `others` [m - reference].
    """

    reference: int
    indices: np.ndarray
    features: Tensor
    radii: Tensor

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

    One shuffle gives both, so that the reference is never compared with itself.

    Args:
        dataset: The real images.
        network: The feature network.
        reference: Images per class of the reference.
        others: Other images per class, at most; fewer where a class has fewer.
        seed: The run's seed.
    """
    classes = []
    for c in range(len(dataset.classes)):
        shuffled = shuffled_indices(dataset, c, seed=seed, tag=REFERENCE_TAG)
        indices = shuffled[: reference + others]
        features = features_of(network, dataset.images("train", indices.tolist()), dataset)
        radii = neighbour_radii(features[reference:])
        classes.append(RealFeatures(reference, indices, features, radii))
    return tuple(classes)


def real_set(classes: tuple[RealFeatures, ...], max_images: int) -> Tensor:
    """Return features of real images outside the reference, equally many of each class."""
    quota = per_class_quota(len(classes), max_images)
    return torch.cat([real.others[:quota] for real in classes])


def per_class_quota(classes: int, max_images: int) -> int:
    """Return the images per class of a set of at most `max_images`; at least one."""
    return max(1, max_images // classes)


@dataclass(frozen=True)
class TeacherScores:
    """Scores of n images by the teachers of the pool.

    Attributes:
        loss: The primary's cross-entropy with the image's class, in nats, float64 [n].
        agreement: See `pairs_agree`, [n].
        js_divergence: See `js_divergence`, [n].
    """

    loss: Tensor
    agreement: Tensor
    js_divergence: Tensor


def teacher_scores(run: Run, pixels: Tensor, classes: Tensor) -> TeacherScores:
    """Score images by the teachers of a run.

    Args:
        run: The run.
        pixels: uint8 [n, 3, S, S].
        classes: Class index of each image, int64 [n].

    Raises:
        PrismError: A teacher is not trained.
    """
    dataset, names = open_dataset(run.settings), run.settings.teachers
    teachers = [load_teacher(run, name) for name in names]
    logits = torch.stack([FEATURE_CACHE.get(logits_of, t, pixels, dataset) for t in teachers])
    primary = logits[names.index(run.settings.primary)].double()
    loss = functional.cross_entropy(primary, classes, reduction="none")
    return TeacherScores(loss, pairs_agree(logits), js_divergence(logits))
