"""Kernel inception distance between two sets of images."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.diversity.geometry import UNDEFINED

_ROWS = 1024  # of a kernel matrix at once


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared maximum mean discrepancy of two sets of features, without bias.

        mean over i != j of k(a_i, a_j) + mean over i != j of k(b_i, b_j)
        - 2 mean over i, j of k(a_i, b_j),  k(x, y) = (x . y / d + 1)^3

    (KID: Binkowski et al., ICLR 2018, arXiv 1801.01401.) Unlike FID its expectation does not
    depend on the number of images, so few will do; for the same reason it may fall below 0.

    Args:
        a: Features of one set [n, d], not normalised.
        b: Features of the other [m, d].

    Returns:
        About 0 for sets of one distribution, more for others, in the network's own unit; NaN
        where a set has under two images.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        return UNDEFINED
    a, b = a.double(), b.double()
    within = (_total(a, a) - _itself(a)) / (n * (n - 1)) + (_total(b, b) - _itself(b)) / (
        m * (m - 1)
    )
    return within - 2 * _total(a, b) / (n * m)


def _total(a: Tensor, b: Tensor) -> float:
    # One buffer for all parts: a sum that is kept behind each would part the freed memory, which
    # then holds no further one.
    kernel, total = a.new_empty(min(_ROWS, len(a)), len(b)), 0.0
    for part in a.split(_ROWS):
        rows = torch.mm(part, b.T, out=kernel[: len(part)])
        total += float(rows.div_(a.shape[1]).add_(1).pow_(3).sum())
    return total


def _itself(a: Tensor) -> float:
    return float((a.square().mean(1) + 1).pow(3).sum())
