"""Vendi score: how many different images a class amounts to."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.diversity.geometry import UNDEFINED, directions


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different images of a class; higher is more diverse.

        exp(-sum of e log e),  e the eigenvalues of Z Z^T / n,  0 log 0 = 0

    (Friedman and Dieng, arXiv 2210.02410, with the cosine kernel.)

    Args:
        features: Penultimate features of one class [n, d].

    Returns:
        A value in [1, n]: 1 for equal directions, n for orthogonal ones; NaN under two images,
        where it says nothing, and for features without direction.
    """
    z, n = directions(features), len(features)
    if n < 2 or not torch.isfinite(z).all():
        return UNDEFINED
    # Z Z^T and Z^T Z have the same eigenvalues but for zeros: take the smaller.
    gram = z @ z.T if n <= z.shape[1] else z.T @ z
    spread = torch.linalg.eigvalsh(gram / n).clamp(min=0)
    return float(torch.special.entr(spread).sum().exp())
