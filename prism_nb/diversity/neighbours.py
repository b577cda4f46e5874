"""Nearest neighbours: within a class, and among real training images."""

from __future__ import annotations

from torch import Tensor

from prism_nb.diversity.geometry import UNDEFINED, directions, distances


def nearest_within(features: Tensor) -> float:
    """Return the mean distance of a class's images to their nearest neighbour among themselves.

        1 / n * sum over i of min over j != i of |z_i - z_j|,  z normalised to length 1

    Higher is more diverse; 0 means that every image has a double.

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [0, 2]; NaN under two images.
    """
    if len(features) < 2:
        return UNDEFINED
    z = directions(features)
    return float(distances(z, z).fill_diagonal_(float("inf")).amin(1).mean())


def nearest_among(features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Find each image's nearest neighbour among real ones, which shows near-copies.

        min over j of |z_i - y_j|,  z and y normalised to length 1

    Args:
        features: Penultimate features of images [n, d].
        real: Those of real images [m, d], m at least 1.

    Returns:
        Distances in [0, 2], float64 [n], NaN where a feature has no direction, and the places of
        the neighbours among `real`, int64 [n].
    """
    nearest = distances(directions(features), directions(real)).min(1)
    return nearest.values, nearest.indices
