"""Batch formation: which classes and image slots are optimised together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Batch:
    """The images of one unit: every slot of every class in two ranges.

    Attributes:
        slots: First and one-past-last image slot (index within the class).
        classes: First and one-past-last class.
    """

    slots: tuple[int, int]
    classes: tuple[int, int]

    @property
    def name(self) -> str:
        """A readable key, e.g. `slots000-004_classes000-099`, both ends included."""
        (a, b), (c, d) = self.slots, self.classes
        return f"slots{a:03d}-{b - 1:03d}_classes{c:03d}-{d - 1:03d}"

    def members(self) -> list[tuple[int, int]]:
        """Return (class, slot) of every image, slot by slot."""
        return [(c, s) for s in range(*self.slots) for c in range(*self.classes)]


def cross_class(
    classes: int, ipc: int, batch_size: int, *, share_slots: bool = True
) -> list[Batch]:
    """Fill batches with as many different classes as they hold (PRISM's cross-class batches).

    With at least `batch_size` classes, a batch holds one slot of a run of consecutive classes.
    With fewer, several slots share a batch, so that it still carries statistics. Runs are as
    equal in length as they can be, since a small rest would make poor statistics.

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_slots: Whether several slots may share a batch.

    Returns:
        Batches that hold every (class, slot) exactly once, slots ascending.
    """
    slots_together = max(1, batch_size // classes) if share_slots else 1
    return [
        Batch(slots, chunk)
        for slots in _even(ipc, slots_together)
        for chunk in _even(classes, batch_size)
    ]


def class_wise(classes: int, ipc: int, batch_size: int, *, share_slots: bool = True) -> list[Batch]:
    """Fill each batch with images of one class, as many slots as it holds.

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1.
        share_slots: Whether several slots may share a batch; a batch of one image if not.

    Returns:
        Batches that hold every (class, slot) exactly once, classes ascending.
    """
    runs = _even(ipc, batch_size if share_slots else 1)
    return [Batch(slots, (c, c + 1)) for c in range(classes) for slots in runs]


def class_major(
    classes: int, ipc: int, batch_size: int, *, share_slots: bool = True
) -> list[Batch]:
    """Fill each batch with all slots of as many classes as it holds (G-VBSM, DELT).

    Args:
        classes: Number of classes, at least 1.
        ipc: Images per class, at least 1.
        batch_size: The most images of a batch, at least 1; a class of more is cut.
        share_slots: Whether several slots may share a batch; batches are `cross_class` if not.

    Returns:
        Batches that hold every (class, slot) exactly once, classes ascending.
    """
    if not share_slots:
        return cross_class(classes, ipc, batch_size, share_slots=False)
    return [
        Batch(slots, chunk)
        for chunk in _even(classes, max(1, batch_size // ipc))
        for slots in _even(ipc, batch_size)
    ]


def _even(count: int, most: int) -> list[tuple[int, int]]:
    """Cut range(count) into the fewest runs of at most `most`, lengths differing by one at most."""
    runs = -(-count // most)
    cuts = [count * i // runs for i in range(runs + 1)]
    return list(pairwise(cuts))
