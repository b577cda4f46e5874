"""Random subsets of the real images, a fixed number per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from prism_nb.data.base import ImageDataset
from prism_nb.units import unit_seed


def random_real(
    dataset: ImageDataset, members: Sequence[tuple[int, int]], *, seed: int, tag: str
) -> Tensor:
    """Return random training images without repetition within a class.

    Slot k of a class is the k-th of a shuffle that only `seed`, `tag` and the class decide, so
    that the choice does not depend on how slots are cut into batches.

    Args:
        dataset: The real images.
        members: (class, slot) of each image wanted.
        seed: The run's seed.
        tag: What the subset is for; other tags give other subsets.

    Returns:
        Pixels in the order of `members`, uint8 [n, 3, S, S].
    """
    shuffled = {c: shuffled_places(dataset, c, seed=seed, tag=tag) for c in {c for c, _ in members}}
    return dataset.images("train", [int(shuffled[c][slot]) for c, slot in members])


def shuffled_places(dataset: ImageDataset, c: int, *, seed: int, tag: str) -> np.ndarray:
    """Return where a class's training images lie, int64 [n], in the order of `random_real`."""
    places = dataset.of_class("train", c)
    return np.random.default_rng(unit_seed(seed, tag, c)).permutation(places)
