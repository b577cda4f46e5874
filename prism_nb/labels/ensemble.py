"""Ensembles: how the logits of several teachers become one soft label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def norm_balanced_mean(logits: Sequence[Tensor]) -> Tensor:
    """Average logits after giving every network the same overall scale.

    Each network's block is divided by its Frobenius norm and multiplied by the mean of the
    norms (published PRISM and G-VBSM, their ResNet-18 recipe). The block here is a whole epoch
    instead of a training batch, so that a label does not depend on the batch it is made in.

    Args:
        logits: One block [N, classes] per network.

    Returns:
        Soft label logits [N, classes].
    """
    blocks = torch.stack(list(logits))
    norms = torch.linalg.vector_norm(blocks, dim=(1, 2), keepdim=True)
    return (blocks / norms.clamp_min(torch.finfo(blocks.dtype).tiny) * norms.mean()).mean(0)
