"""What a network makes of images, batch by batch."""

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
from prism_nb.diversity.metrics import UNDEFINED, js_divergence, neighbour_radii, pairs_agree
from prism_nb.models.pool import load_teacher
from prism_nb.models.teacher import Teacher

_BATCH = 256
_AT_ONCE = 4096  # images whose outputs are held at a time, in whole classes

Extract = Callable[[Tensor], tuple[Tensor, ...]]


def features_and_logits(
    network: Teacher, pixels: Tensor, dataset: ImageDataset
) -> tuple[Tensor, Tensor]:
    """Return features and logits, as `features_of` and `logits_of`, in one pass."""
    features, logits = _batched(network.look, network, pixels, dataset)
    return features, logits


def features_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return penultimate features, float32 [N, d] on the CPU, of uint8 images [N, 3, S, S]."""
    return _batched(lambda images: (network.features(images),), network, pixels, dataset)[0]


def logits_of(network: Teacher, pixels: Tensor, dataset: ImageDataset) -> Tensor:
    """Return logits, float32 [N, classes] on the CPU, of uint8 images [N, 3, S, S]."""
    return _batched(lambda images: (network(images),), network, pixels, dataset)[0]


def iter_classes(see: Extract, pixels: Tensor, classes: int) -> Iterator[tuple[Tensor, ...]]:
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
    see: Extract, network: Teacher, pixels: Tensor, dataset: ImageDataset
) -> tuple[Tensor, ...]:
    device, found = next(network.parameters()).device, tuple[Tensor, ...]()
    for begin in range(0, len(pixels), _BATCH):
        rows = slice(begin, begin + _BATCH)
        seen = see(dataset.normalize(pixels[rows].to(device)))
        # Room for all of it is taken once: parts would lie strewn among what the passes use, and
        # the memory between two of them would be too small to be used again.
        found = found or tuple(torch.empty(len(pixels), *each.shape[1:]) for each in seen)
        for whole, each in zip(found, seen, strict=True):
            whole[rows] = each
    return found


_MOST_BYTES = 256 * 2**20
_KINDS: dict[str, Callable[[Teacher, Tensor, ImageDataset], Tensor]] = {
    "features": features_of,
    "logits": logits_of,
}


class FeatureCache:
    """A store of tensors that forgets what was asked for longest ago.

    Args:
        most: Bytes that are kept at most; what is larger than that is not kept.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._most, self._held = most, 0
        self._kept: OrderedDict[tuple[Teacher, str, str], Tensor] = OrderedDict()

    def seen(
        self, network: Teacher, pixels: Tensor, dataset: ImageDataset, *, kind: str = "features"
    ) -> Tensor:
        """Return what a network makes of images, from memory where they were seen before.

        Args:
            network: The network.
            pixels: uint8 [N, 3, S, S]; their bytes decide whether they were seen before.
            dataset: Whose pixel space is meant.
            kind: `features` or `logits`.

        Returns:
            float32 [N, d] on the CPU; to be left unchanged.
        """
        key = (network, kind, _digest(pixels))
        if key not in self._kept:
            self._keep(key, _KINDS[kind](network, pixels, dataset))
        self._kept.move_to_end(key)
        found = self._kept[key]
        self._forget()
        return found

    def _keep(self, key: tuple[Teacher, str, str], found: Tensor) -> None:
        self._kept[key] = found
        self._held += found.nbytes

    def _forget(self) -> None:
        while self._held > self._most:
            self._held -= self._kept.popitem(last=False)[1].nbytes


FEATURE_CACHE = FeatureCache()


def _digest(pixels: Tensor) -> str:
    plain = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return hashlib.sha256(plain.tobytes() + repr(plain.shape).encode()).hexdigest()


@dataclass(frozen=True)
class RealFeatures:
    """Real training images of one class: those of the reference first, then others.

    Attributes:
        reference: Number of images of the reference.
        places: Where each image lies in the training split, int64 [m].
        features: Penultimate features [m, d].
        radii: Of the others: distance to the k-th neighbour among them [m - reference].
    """

    reference: int
    places: np.ndarray
    features: Tensor
    radii: Tensor

    @property
    def others(self) -> Tensor:
        """The features of the images that are not the reference's."""
        return self.features[self.reference :]


# Once per process and network, since every method is compared with the same.
@lru_cache(maxsize=4)
def real_features(
    dataset: ImageDataset, network: Teacher, *, reference: int, most: int, seed: int
) -> tuple[RealFeatures, ...]:
    """Look at the reference's images of each class and at others beside them.

    The others are drawn by the same shuffle, so that the reference never meets itself.

    Args:
        dataset: The real images.
        network: What looks at them.
        reference: Images per class of the reference.
        most: Others per class, at most; fewer where the class has fewer.
        seed: The run's.

    Returns:
        One per class, in order.
    """
    return tuple(
        _real_class(dataset, network, c, reference, reference + most, seed)
        for c in range(len(dataset.classes))
    )


def _real_class(
    dataset: ImageDataset, network: Teacher, c: int, reference: int, most: int, seed: int
) -> RealFeatures:
    places = shuffled_indices(dataset, c, seed=seed, tag=REFERENCE_TAG)[:most]
    pixels = dataset.images("train", places.tolist())
    features = features_of(network, pixels, dataset)
    return RealFeatures(reference, places, features, neighbour_radii(features[reference:]))


def real_set(classes: tuple[RealFeatures, ...], most: int) -> Tensor:
    """Return features of real images of all classes, equally many of each and at most `most`.

    Those of the reference are not among them.
    """
    share = per_class_quota(len(classes), most)
    return torch.cat([real.others[:share] for real in classes])


def per_class_quota(classes: int, most: int) -> int:
    """Return how many images of each class make a set of at most so many; one at least."""
    return max(1, most // classes)


@dataclass(frozen=True)
class TeacherScores:
    """What the pool makes of n images.

    Attributes:
        loss: The primary's cross-entropy with the image's class, in nats, float64 [n].
        agree: Share of pairs of teachers that name the same class, in [0, 1], float64 [n]; NaN
            where there is one teacher.
        apart: Jensen-Shannon divergence of two teachers, mean over pairs, in [0, log 2] nats,
            float64 [n]; NaN likewise.
    """

    loss: Tensor
    agree: Tensor
    apart: Tensor


def teacher_scores(run: Run, pixels: Tensor, classes: Tensor) -> TeacherScores:
    """Have the teachers of a run look at images.

    Args:
        run: The run.
        pixels: uint8 [n, 3, S, S].
        classes: The images' classes, int64 [n].

    Raises:
        PrismError: A teacher is not trained.
    """
    dataset, names = open_dataset(run.settings), run.settings.teachers
    seen = [FEATURE_CACHE.seen(load_teacher(run, n), pixels, dataset, kind="logits") for n in names]
    primary = seen[names.index(run.settings.primary)].double()
    loss = functional.cross_entropy(primary, classes, reduction="none")
    if len(seen) < 2:
        nothing = torch.full_like(loss, UNDEFINED)
        return TeacherScores(loss, nothing, nothing)
    logits = torch.stack(seen)
    return TeacherScores(loss, pairs_agree(logits), js_divergence(logits))
