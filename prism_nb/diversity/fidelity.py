"""Fidelity: whether a network that took no part sees an image's class in it."""

from __future__ import annotations

from torch import Tensor


def recognised(logits: Tensor, classes: Tensor) -> Tensor:
    """Return whether each image's top-1 is its class: 1 or 0, float64 [n].

    Args:
        logits: Of one network [n, classes].
        classes: Class index of each image [n].
    """
    return (logits.argmax(1) == classes).double()


def confidence(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the softmax probability of each image's class, in [0, 1], float64 [n].

    Args:
        logits: Of one network [n, classes].
        classes: Class index of each image [n].
    """
    return logits.double().softmax(1).gather(1, classes[:, None])[:, 0]
