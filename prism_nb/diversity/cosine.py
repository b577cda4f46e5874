"""Cosine similarity within a class."""

from __future__ import annotations

from torch import Tensor

from prism_nb.diversity.geometry import UNDEFINED, directions


def intra_class_cosine(features: Tensor) -> float:
    """Return the mean pairwise cosine similarity of a class; lower is more diverse.

        2 / (n (n - 1)) * sum over i < j of z_i . z_j,  z normalised to length 1

    (PRISM, arXiv 2511.09905, evaluation.) Features that are never negative, such as those after
    a ReLU, have cosines of 0 and above.

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [-1/(n-1), 1]; NaN under two images, for which it is undefined.
    """
    z, n = directions(features), len(features)
    if n < 2:
        return UNDEFINED
    # The sum over all pairs is |sum z|^2; the n pairs of an image with itself add |z_i|^2 each.
    return float((z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1)))


def centroid_cosine(features: Tensor) -> float:
    """Return the mean cosine similarity to the class's centroid; lower is more diverse.

        1 / n * sum of z_i . c / |c|,  c = 1 / n * sum of z_i

    which is |c|. (DELT, arXiv 2411.19946, shows this one; it exceeds the pairwise mean.)

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [0, 1]; NaN under two images, which lie on their centroid.
    """
    if len(features) < 2:
        return UNDEFINED
    return float(directions(features).mean(0).norm())
