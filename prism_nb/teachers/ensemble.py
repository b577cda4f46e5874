"""Ensembles: how the logits of several networks become one soft label.

A block is what one network says of thousands of views of an epoch, of all classes alike. The
published recipes take a training batch as a block; blocks that no batch decides make a label
independent of the batch that it is used in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    if kind == "mean":
        return _sum(logits) / len(logits)
    if kind == "accuracy":
        return _weighted(logits, _by_accuracy(accuracies))
    return _primary_half(logits, primary) if kind == "primary_half" else _norm_balanced(logits)


def _norm_balanced(blocks: Sequence[Tensor]) -> Tensor:
    """Average blocks after giving all of them the same norm.

    Each is divided by its Frobenius norm and multiplied by the mean of the norms (published PRISM
    and G-VBSM, their ResNet-18 recipe).
    """
    norms = torch.stack([torch.linalg.vector_norm(block) for block in blocks])
    mean, tiny = norms.mean(), _tiny(norms)
    balanced = (
        block / norm.clamp_min(tiny) * mean for block, norm in zip(blocks, norms, strict=True)
    )
    return _sum(balanced) / len(blocks)


def _primary_half(blocks: Sequence[Tensor], primary: int) -> Tensor:
    """Give half of the weight to the primary and share the rest, then make all rows equally long.

    Each row gets the mean length of the rows (published PRISM, its ResNet-50 and -101 recipe).
    """
    others = len(blocks) - 1
    if others == 0:
        return _equally_long(blocks[0])
    weights = [0.5 if place == primary else 0.5 / others for place in range(len(blocks))]
    return _equally_long(_weighted(blocks, weights))


def _equally_long(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(_tiny(rows)) * lengths.mean()


def _by_accuracy(accuracies: Sequence[float]) -> list[float]:
    """Return softmax(accuracy in percent / 5) (CV-DD, arXiv 2501.07575)."""
    return (torch.tensor(accuracies, dtype=torch.float64) * 20).softmax(0).tolist()


def _weighted(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return _sum(block * weight for block, weight in zip(blocks, weights, strict=True))


def _sum(blocks: Iterable[Tensor]) -> Tensor:
    """Add up blocks one by one, since a stack would hold all of them once more."""
    one_by_one = iter(blocks)
    total = next(one_by_one).clone()
    for block in one_by_one:
        total += block
    return total


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
