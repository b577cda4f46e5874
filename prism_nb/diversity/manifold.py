"""Density and coverage: synthetic images among the neighbourhoods of real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.diversity.geometry import UNDEFINED, distances

NEIGHBOURS = 5  # k, as the paper chooses it
# A copy of a training image that is a k-th neighbour lies on the rim of a neighbourhood: the
# rounding of features in float32 must not decide whether that is outside.
_RIM = 1e-5


def neighbour_radii(real: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Return each real image's distance to its k-th nearest neighbour, itself not counted.

    Args:
        real: Features of one class's real images [m, d].
        k: Which neighbour.

    Returns:
        float64 [m]; NaN throughout where there are no k neighbours, that is for m <= k.
    """
    if len(real) <= k:
        return torch.full((len(real),), torch.nan, dtype=torch.float64)
    # The image itself is the nearest of all.
    return distances(real, real).kthvalue(k + 1, dim=1).values


def density_coverage(
    features: Tensor, real: Tensor, radii: Tensor, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return how densely real neighbourhoods hold the images, and how many hold one at all.

        density  = 1 / (k n) * sum over j, i of [|f_j - r_i| < radius_i]
        coverage = 1 / m * sum over i of [some j has |f_j - r_i| < radius_i]

    (Naeem et al., ICML 2020, arXiv 2002.09797, with the strict inequality of its program: what
    lies on the rim is outside.) Density rises with fidelity, coverage with diversity; coverage
    also rises with n, so compare equal n.

    Args:
        features: Features of one class's images [n, d], not normalised.
        real: Features of the class's real images [m, d].
        radii: The result of `neighbour_radii` for `real` and `k`.
        k: The neighbours that the radii reach to.

    Returns:
        Density, 0 or more, about 1 for other real images; coverage in [0, 1]. NaN where anything
        is not finite: a comparison with NaN would count as outside.
    """
    apart = distances(features, real)
    if not apart.numel() or not torch.isfinite(apart).all() or not torch.isfinite(radii).all():
        return UNDEFINED, UNDEFINED
    inside = apart < radii * (1 - _RIM)
    return int(inside.sum()) / (k * len(features)), int(inside.any(0).sum()) / len(real)
