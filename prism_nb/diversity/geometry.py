"""What the measures share: directions and distances of features, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

UNDEFINED = float("nan")


def directions(features: Tensor) -> Tensor:
    """Return rows [n, d] at length 1, float64; a row of zeros, which has none, becomes NaN."""
    rows = features.double()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances between rows [n, d] and [m, d] as float64 [n, m].

    Differences are taken first, so that equal rows lie at distance 0 exactly.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.double(), b.double(), compute_mode=mode)


def have_directions(*sets: Tensor) -> bool:
    """Return whether every row of every set is finite and not all zeros."""
    return all(bool(torch.isfinite(directions(rows)).all()) for rows in sets)
