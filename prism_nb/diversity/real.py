"""The real training images that every set is compared with, as a network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from prism_nb.artifacts.images import REFERENCE_TAG
from prism_nb.data import ImageDataset
from prism_nb.data.subset import shuffled_places
from prism_nb.diversity.manifold import neighbour_radii
from prism_nb.diversity.perception import features_of
from prism_nb.teachers.teacher import Teacher


@dataclass(frozen=True)
class RealClass:
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
def real_classes(
    dataset: ImageDataset, network: Teacher, *, reference: int, most: int, seed: int
) -> tuple[RealClass, ...]:
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
) -> RealClass:
    places = shuffled_places(dataset, c, seed=seed, tag=REFERENCE_TAG)[:most]
    pixels = dataset.images("train", places.tolist())
    features = features_of(network, pixels, dataset)
    return RealClass(reference, places, features, neighbour_radii(features[reference:]))


def real_set(classes: tuple[RealClass, ...], most: int) -> Tensor:
    """Return features of real images of all classes, equally many of each and at most `most`.

    Those of the reference are not among them.
    """
    share = share_of(len(classes), most)
    return torch.cat([real.others[:share] for real in classes])


def share_of(classes: int, most: int) -> int:
    """Return how many images of each class make a set of at most so many; one at least."""
    return max(1, most // classes)
