"""Spread of a class: how far its images lie from their mean."""

from __future__ import annotations

from torch import Tensor

from prism_nb.diversity.geometry import UNDEFINED


def radius(features: Tensor) -> float:
    """Return the mean distance of a class's features to their mean; 0 is collapse.

        1 / n * sum of |f_i - 1 / n * sum of f_j|

    Args:
        features: Penultimate features of one class [n, d], of any length.

    Returns:
        A value of 0 or more, in the network's own unit: compare it with that of as many real
        images. NaN under two images, whose spread is 0 whatever they are.
    """
    if len(features) < 2:
        return UNDEFINED
    rows = features.double()
    return float((rows - rows.mean(0)).norm(dim=1).mean())
