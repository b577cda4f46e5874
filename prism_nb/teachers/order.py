"""Whether a head's classes are the dataset's, told from how often it is right."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from prism_nb.data import ImageDataset
from prism_nb.errors import PrismError

_CLASSES = 8
_PER_CLASS = 4
_RISK = 1e-3  # how seldom chance may pass, or half the published accuracy fail


def few_images(dataset: ImageDataset) -> np.ndarray:
    """Return places of up to four held-out images of up to eight classes, spread over the order."""
    count = len(dataset.classes)
    chosen = np.unique(np.linspace(0, count - 1, _CLASSES).round().astype(int))
    return np.concatenate([dataset.of_class("val", int(c))[:_PER_CLASS] for c in chosen])


def least_right(images: int, classes: int, published: float | None) -> int | None:
    """Return how many of some images a head in the right order gets right at the very least.

    It is the smallest number that guessing reaches less than once in a thousand times. A network
    with half of the published accuracy would have to fall short of it less often than that, else
    the images cannot tell: so no head is refused for pictures that are merely unusual.

    Args:
        images: Their number.
        classes: The dataset's; guessing is right once in so many times.
        published: Accuracy that the weights' publisher states, in [0, 1].

    Returns:
        The number, or None where the images cannot tell, or nothing is published.
    """
    if published is None or not images:
        return None
    least = int(binom.isf(_RISK, images, 1 / classes)) + 1
    return least if binom.cdf(least - 1, images, published / 2) < _RISK else None


def require_order(
    name: str, right: int, images: int, *, classes: int, published: float | None
) -> bool:
    """Check that a head is right clearly more often than chance.

    Returns:
        Whether so many images could tell.

    Raises:
        PrismError: They could, and it is not.
    """
    least = least_right(images, classes, published)
    if least is None or published is None:
        return False
    if right < least:
        raise PrismError(
            f"network {name!r} knows {right} of {images} held-out images, hardly more than chance "
            f"among {classes} classes, though {100 * published:.1f} % are published: the dataset's "
            "class order is not that of its head, or its images are of something else; compare "
            "classes.json with the classes of the weights"
        )
    return True
