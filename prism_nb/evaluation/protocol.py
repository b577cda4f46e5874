"""The published PRISM protocol for students: its schedule and its loss."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


def learning_rate_factor(epoch: int, epochs: int) -> float:
    """Return the factor of the initial step size in an epoch (published PRISM code).

    A slow cosine for five sixths of the epochs, down to 0.75; then a drop to a sixth of that and
    a line to zero.

    Args:
        epoch: The epoch, 0 ... epochs - 1.
        epochs: Number of epochs, E.
    """
    if epoch <= 5 * epochs / 6:
        return 0.5 * (1 + math.cos(math.pi * epoch / (2.5 * epochs)))
    return 0.75 * (1 - epoch / epochs)


def student_loss(logits: Tensor, soft: Tensor, classes: Tensor, *, hard_weight: float) -> Tensor:
    """Return MSE(logits, soft labels) + hard_weight * CE(logits, true classes).

    Args:
        logits: The student's, [n, C].
        soft: The ensemble's logits for the same views, [n, C].
        classes: Class of each un-mixed image, [n].
        hard_weight: 0.1 in the published code.
    """
    hard = functional.cross_entropy(logits, classes)
    return functional.mse_loss(logits, soft) + hard_weight * hard


def parameter_groups(network: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Return parameters in two groups: matrices and kernels decay, vectors and scalars do not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
