"""Data densification: keep the images of a class from falling together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SIDE = 32  # pixels
_TEMPERATURE = 4.0


def densification(images: Tensor, labels: Tensor) -> Tensor:
    """Measure how unevenly the images of each class spread (G-VBSM, CVPR 2024, section 3.2).

    Per class, with e the eigenvalues of the Gram matrix of its images pooled to 32 x 32 pixels:
    KL(softmax(e / 4) || softmax(e)), gradients through the second only; 0 for a single image.

    Args:
        images: Canonical images [N, 3, H, W].
        labels: Class indices [N].

    Returns:
        The sum over the classes, a scalar.
    """
    rows = functional.adaptive_avg_pool2d(images, _SIDE).flatten(1)
    return torch.stack([_divergence(rows[labels == c]) for c in labels.unique()]).sum()


def _divergence(rows: Tensor) -> Tensor:
    spread = torch.linalg.eigvalsh(rows @ rows.T)
    flatter = (spread / _TEMPERATURE).softmax(0).detach()
    return functional.kl_div(spread.log_softmax(0), flatter, reduction="sum")
