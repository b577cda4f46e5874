"""Ensembles: how the logits of several networks become one soft label.

A block is what one network says of the views of an epoch. The published recipes take a training
batch as a block; a whole epoch makes a label independent of the batch that it is used in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def combine(
    kind: str, logits: Sequence[Tensor], *, primary: int, accuracies: Sequence[float]
) -> Tensor:
    """Return soft label logits [N, classes] of an ensemble.

    Args:
        kind: `norm_balanced`, `primary_half`, `mean` or `accuracy`.
        logits: One block [N, classes] per network.
        primary: Place of the primary; of `primary_half` alone.
        accuracies: Of the networks on held-out real images, in [0, 1]; of `accuracy` alone.
    """
    blocks = torch.stack(list(logits))
    if kind == "mean":
        return blocks.mean(0)
    if kind == "accuracy":
        return _weighted(blocks, accuracies)
    return _primary_half(blocks, primary) if kind == "primary_half" else _norm_balanced(blocks)


def _norm_balanced(blocks: Tensor) -> Tensor:
    """Average blocks after giving all of them the same norm.

    Each is divided by its Frobenius norm and multiplied by the mean of the norms (published PRISM
    and G-VBSM, their ResNet-18 recipe).
    """
    norms = torch.linalg.vector_norm(blocks, dim=(1, 2), keepdim=True)
    return (blocks / norms.clamp_min(_tiny(blocks)) * norms.mean()).mean(0)


def _primary_half(blocks: Tensor, primary: int) -> Tensor:
    """Give half of the weight to the primary and share the rest, then make all rows equally long.

    Each row gets the mean length of the rows (published PRISM, its ResNet-50 and -101 recipe).
    """
    others = len(blocks) - 1
    if others == 0:
        return _equally_long(blocks[0])
    weights = blocks.new_full((len(blocks),), 0.5 / others)
    weights[primary] = 0.5
    return _equally_long(torch.einsum("k,knc->nc", weights, blocks))


def _equally_long(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(_tiny(rows)) * lengths.mean()


def _weighted(blocks: Tensor, accuracies: Sequence[float]) -> Tensor:
    """Weigh networks by softmax(accuracy in percent / 5) (CV-DD, arXiv 2501.07575)."""
    percent = torch.tensor(accuracies, dtype=blocks.dtype, device=blocks.device) * 100
    return torch.einsum("k,knc->nc", (percent / 5).softmax(0), blocks)


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
