"""Whether a head's classes are the dataset's, told from what it takes real images for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from prism_nb.data import ImageDataset
from prism_nb.errors import PrismError

_CLASSES = 32
_EACH = 4  # the fewest images of a class whose most frequent guess says anything
_MANY = 20  # images of each class, by which even a few classes in each other's place can be told
_RISK = 1e-3  # how seldom a head in order is refused, and guessing passes


def few_images(dataset: ImageDataset) -> np.ndarray:
    """Return places of four held-out images or more of up to 32 classes.

    The classes are drawn at random, always the same, since those at equal distances are just what
    reversed or otherwise regular orders may leave in place.
    """
    count = len(dataset.classes)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:_CLASSES])
    each = -(-_CLASSES * _EACH // len(chosen))
    return np.concatenate([dataset.of_class("val", int(c))[:each] for c in chosen])


def least_right(images: int, classes: int, accuracy: float | None) -> int | None:
    """Return how many of some images a head in the right order gets right at the very least.

    A network that is right as often as `accuracy` says falls short of that number less than once
    in a thousand times. Where guessing would reach it more often than that, the images cannot
    tell.

    With the 128 images of 32 of 1,000 classes of `few_images`, and half of 69.8 %, it is 29. A
    network as good as published has 89 right and falls short less than once in 10^20 times. One
    that is so good, but whose order agrees with the dataset's for a share of the classes alone,
    passes with these chances, over draws of classes and images: 10^-12 at 1.2 % (numbers sorted as
    text), 0.0006 at 10 %, 0.19 at 25 %, 0.54 at 33 %, 0.97 at 50 %. With 50,000 images, the least
    is 17,121, for which the order must agree for 49 % of the classes. `Placing` finds most others.

    Args:
        images: Their number.
        classes: The dataset's; guessing is right once in so many times.
        accuracy: The least that is believed of a head in order, in [0, 1]; None: nothing is.
    """
    if accuracy is None or not images:
        return None
    least = int(binom.ppf(_RISK, images, accuracy))
    return least if binom.sf(least - 1, images, 1 / classes) < _RISK else None


@dataclass(frozen=True)
class Placing:
    """What a network mostly takes each class for, where that sets the class apart.

    A class is known if the network takes more than half of its images, of which there are four or
    more, for one and the same class, and no other class for that. A head in the wrong order knows
    classes, but under the wrong names. One that knows nothing takes many classes for one, and one
    that confuses two likely takes both for the same, which makes neither known.

    Attributes:
        classes: Number of classes with images.
        right: Known classes that are taken for themselves.
        wrong: Indices of known classes that are taken for another, and of those.
        many: Whether every class has images enough to trust each one.
    """

    classes: int
    right: int
    wrong: tuple[tuple[int, int], ...]
    many: bool

    @property
    def tells(self) -> bool:
        """Whether at least half of the classes are known."""
        return 2 * (self.right + len(self.wrong)) >= self.classes

    @property
    def is_wrong(self) -> bool:
        """Whether classes are known under wrong names.

        With twenty images of each class, more than 2 % of the classes (and more than one); with
        fewer, more than half of those known, because a single class may look so by chance.
        """
        known = self.right + len(self.wrong)
        borne = max(1, self.classes // 50) if self.many else max(1, known // 2)
        return self.tells and len(self.wrong) > borne


def place_classes(guesses: np.ndarray, labels: np.ndarray, classes: int) -> Placing:
    """Return what a network mostly takes classes for.

    Args:
        guesses: Its top-1 class of each image, int64 [n].
        labels: The true ones, int64 [n].
        classes: Number of classes.
    """
    pairs, counts = np.unique(labels * classes + guesses, return_counts=True)
    images = np.bincount(labels, minlength=classes)
    true, taken = pairs // classes, pairs % classes
    mostly = (2 * counts > images[true]) & (images[true] >= _EACH)
    true, taken = true[mostly], taken[mostly]
    alone = np.bincount(taken, minlength=classes)[taken] == 1
    found = [(int(t), int(g)) for t, g in zip(true[alone], taken[alone], strict=True)]
    shown = images[images > 0]
    return Placing(
        classes=len(shown),
        right=sum(t == g for t, g in found),
        wrong=tuple((t, g) for t, g in found if t != g),
        many=bool((shown >= _MANY).all()),
    )


def require_order(
    name: str,
    guesses: np.ndarray,
    labels: np.ndarray,
    *,
    folders: Sequence[str],
    accuracy: float | None,
) -> bool:
    """Check that a network takes classes for themselves.

    What is found: an order that is wrong for more than half of the classes, by the accuracy where
    one is published, and any that is wrong for more than 2 % of the classes (at least two), where
    the network knows most of them and there are twenty images of each. What is not: two classes
    of a thousand in each other's place, which look like two that the network confuses.

    Args:
        name: The network's.
        guesses: Its top-1 class of each image, int64 [n].
        labels: The true ones, int64 [n].
        folders: Folder names of all classes, in order.
        accuracy: The least that is believed of a head in order, in [0, 1]; None: nothing is.

    Returns:
        Whether these images could tell.

    Raises:
        PrismError: The order is wrong.
    """
    count, right = len(labels), int((guesses == labels).sum())
    placing = place_classes(guesses, labels, len(folders))
    if placing.is_wrong:
        true, taken = placing.wrong[0]
        raise _refusal(
            name,
            f"takes {len(placing.wrong)} of {placing.classes} classes for one other each, e.g. "
            f"most images of {folders[true]!r} for {folders[taken]!r}",
        )
    least = least_right(count, len(folders), accuracy)
    if least is not None and accuracy is not None and right < least:
        raise _refusal(
            name,
            f"knows {right} of {count} held-out images, though by the accuracy published of it "
            f"{least} would be few",
        )
    return least is not None or (placing.tells and _beats_guessing(right, count, len(folders)))


def _beats_guessing(right: int, images: int, classes: int) -> bool:
    return bool(binom.sf(right - 1, images, 1 / classes) < _RISK)


def _refusal(name: str, what: str) -> PrismError:
    return PrismError(
        f"network {name!r} {what}: the dataset's class order is not that of its head, or its "
        "images are of something else; compare classes.json with the classes of the weights"
    )
