"""How alike networks are: in what their features span, and in what they call an image."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two networks' features.

        CKA(X, Y) = ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F),  columns of X and Y centred

    It does not change under orthogonal maps and isotropic scaling of either, and needs no equal
    widths. (Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019,
    arXiv 1905.00414, section 3.) Computed by the images' Gram matrices, since features are wide:
    ||Y'X||_F^2 is the sum over all entries of XX' times YY'.

    Args:
        x: Features of the same images, one row each [n, d].
        y: Those of the other network [n, e].

    Returns:
        A number in [0, 1]; not a number where a network's features are all the same.
    """
    gram_x, gram_y = _gram(x), _gram(y)
    norms = torch.linalg.matrix_norm(gram_x) * torch.linalg.matrix_norm(gram_y)
    return float((gram_x * gram_y).sum() / norms) if norms > 0 else float("nan")


def agreement(x: Tensor, y: Tensor) -> float:
    """Return the share of images that two networks give the same class, in [0, 1].

    Args:
        x: Logits of the same images [n, classes].
        y: Those of the other network [n, classes].
    """
    return float((x.argmax(1) == y.argmax(1)).double().mean())


def _gram(features: Tensor) -> Tensor:
    wide = features.double()
    centred = wide - wide.mean(0)
    return centred @ centred.T
