"""Intra-class cosine similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def intra_class_cosine(features: Tensor, classes: Tensor, *, count: int) -> Tensor:
    """Return each class's mean pairwise cosine similarity; lower is more diverse.

        2 / (n (n - 1)) * sum over i < j of z_i . z_j,  z normalised to length 1

    (PRISM, arXiv 2511.09905, evaluation.) Features that are never negative, such as those after
    a ReLU, have cosines of 0 and above.

    Args:
        features: Penultimate features [N, d].
        classes: Class index of each row [N].
        count: Number of classes.

    Returns:
        One value in [-1, 1] per class, float64 [count]; NaN where a class has under two images,
        for which the measure is undefined.
    """
    z = functional.normalize(features.double(), dim=1)
    return torch.stack([_mean_pairwise(z[classes == index]) for index in range(count)])


def _mean_pairwise(z: Tensor) -> Tensor:
    n = len(z)
    if n < 2:
        return torch.tensor(torch.nan, dtype=z.dtype, device=z.device)
    # The sum over all pairs is |sum z|^2; the n pairs of an image with itself add |z_i|^2 each.
    return (z.sum(0).square().sum() - z.square().sum()) / (n * (n - 1))
