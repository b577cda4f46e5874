"""What the published protocols for students consist of: schedules, losses, optimisers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOMENTUM = 0.9


def learning_rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Return the factor of the initial step size in an epoch.

    `slow_drop` is the published PRISM's: a slow cosine for five sixths of the epochs, down to
    0.75; then a drop to a sixth of that and a line to zero. `cosine` goes to zero (SRe2L, CDA,
    EDC, G-VBSM), `half_cosine` to one half of it (RDED), `constant` nowhere.

    Args:
        schedule: One of these.
        epoch: The epoch, 0 ... epochs - 1.
        epochs: Number of epochs, E.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "slow_drop" and epoch > 5 * epochs / 6:
        return 0.75 * (1 - epoch / epochs)
    half_wave = {"slow_drop": 2.5, "cosine": 1.0, "half_cosine": 2.0}[schedule] * epochs
    return 0.5 * (1 + math.cos(math.pi * epoch / half_wave))


def match_logits(logits: Tensor, soft: Tensor, classes: Tensor, *, hard_weight: float) -> Tensor:
    """Return MSE(logits, soft labels) + hard_weight * CE(logits, true classes).

    PRISM and G-VBSM with a weight of 0.1, EDC with 0.025 (their published codes).

    Args:
        logits: The student's, [n, C].
        soft: The ensemble's logits for the same views, [n, C].
        classes: Class of each un-mixed image, [n].
        hard_weight: At least 0.
    """
    hard = functional.cross_entropy(logits, classes)
    return functional.mse_loss(logits, soft) + hard_weight * hard


def match_probabilities(logits: Tensor, soft: Tensor, *, temperature: float) -> Tensor:
    """Return KL(softmax(soft / T) || softmax(logits / T)), the mean over the batch.

    Without the factor T^2 of Hinton et al. (2015), as in SRe2L and its descendants.

    Args:
        logits: The student's, [n, C].
        soft: The ensemble's logits for the same views, [n, C].
        temperature: T; 20 in the published code.
    """
    mine = functional.log_softmax(logits / temperature, dim=1)
    theirs = functional.log_softmax(soft / temperature, dim=1)
    return functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def mixed_cross_entropy(logits: Tensor, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return the cross-entropy with the true classes, mixed as the views are (Yun et al. 2019).

    Args:
        logits: The student's, [n, C].
        own: Class of each image, [n].
        other: Class of its partner, [n].
        share: How much of the view is the partner's, [n] in [0, 1].
    """
    mine, theirs = (functional.cross_entropy(logits, c, reduction="none") for c in (own, other))
    return torch.lerp(mine, theirs, share.to(mine.dtype)).mean()


def new_optimiser(
    network: nn.Module, kind: str, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW (`adamw`) or SGD with Nesterov momentum (`sgd`) over a network's parameters."""
    groups = parameter_groups(network, weight_decay=weight_decay)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=_MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def parameter_groups(network: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Return parameters in two groups: matrices and kernels decay, vectors and scalars do not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
