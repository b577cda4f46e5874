"""A step of any batch in any memory: the gradient of the whole batch from parts of it.

Statistics belong to the whole batch, so that gradients of parts do not simply add up. But frozen
networks in evaluation mode treat images apart from each other, and a pooled mean m and variance v
depend on a part only through its own mean m_i and variance v_i:

    m = sum over i of s_i m_i,   v = sum over i of s_i (v_i + (m_i - m)^2),   s_i its share

So a first pass without gradients pools m and v, the loss gives dL/dm and dL/dv, and a second pass
follows, part by part, sum_l <dL/dm, s_i m_i> + <dL/dv, s_i (v_i + (m_i - m)^2)>, with m and both
derivatives held fixed. Its gradient is that of the whole batch, since v's dependence on m vanishes:
the derivative of sum_i s_i (m_i - m)^2 by m is zero at the pooled mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.synthesis.objective import Role, aligned
from prism_nb.synthesis.watch import Watch
from prism_nb.teachers.statistics import Probe, Statistics

Pooled = dict[Probe, Statistics]


def backward_in_parts(
    role: Role, shown: Tensor, labels: Tensor, weights: Mapping[str, float], *, size: int
) -> dict[str, Tensor]:
    """Compute one network's terms and add their gradient to the view's, part by part.

    Args:
        role: The network, and what it does in this step.
        shown: The augmented images [N, 3, H, W], a leaf with a gradient.
        labels: Class indices [N].
        weights: How much each term counts, by its name.
        size: Images that the network sees at once, at least 1.

    Returns:
        The terms of `Role.losses`, without gradients.
    """
    watch, losses = role.watch, dict[str, Tensor]()
    logit, bn = f"logit/{watch.name}", f"bn/{watch.name}"
    pooled: Pooled = {}
    if role.aligns:
        pooled = _pool(watch, watch.draw_probes(), shown, size)
        loss = aligned(watch, pooled, like=shown)
        if pooled:
            (weights[bn] * loss).backward()
        losses[bn] = loss.detach()
    if not role.speaks and not pooled:
        return losses
    for part, classes in zip(shown.split(size), labels.split(size), strict=True):
        share = len(part) / len(shown)
        if role.speaks:
            logits, seen = watch.sight.observe(part, tuple(pooled))
            entropy = functional.cross_entropy(logits, classes)
            losses[logit] = losses.get(logit, 0) + share * entropy.detach()
            surrogate = [weights[logit] * entropy]
        else:
            seen, surrogate = watch.sight.statistics(part, tuple(pooled)), []
        surrogate += [_slope(*pair) for pair in zip(pooled.values(), seen, strict=True)]
        (share * torch.stack(surrogate).sum()).backward()
    return losses


@torch.no_grad()
def _pool(watch: Watch, probes: Sequence[Probe], shown: Tensor, size: int) -> Pooled:
    """Return the whole batch's statistics, ready to take a gradient."""
    if not probes:
        return {}
    parts = shown.split(size)
    shares = [len(part) / len(shown) for part in parts]
    seen = [watch.sight.statistics(part, probes) for part in parts]
    return {
        probe: _whole(shares, [statistics[place] for statistics in seen])
        for place, probe in enumerate(probes)
    }


def _whole(shares: Sequence[float], parts: Sequence[Statistics]) -> Statistics:
    mean = torch.stack([s * part.mean for s, part in zip(shares, parts, strict=True)]).sum(0)
    spread = [
        s * (part.var + (part.mean - mean).square()) for s, part in zip(shares, parts, strict=True)
    ]
    return Statistics(mean.requires_grad_(), torch.stack(spread).sum(0).requires_grad_())


def _slope(whole: Statistics, here: Statistics) -> Tensor:
    """Return a part's term of the surrogate, for one probe."""
    var = here.var + (here.mean - whole.mean.detach()).square()
    return (_derivative(whole.mean) * here.mean).sum() + (_derivative(whole.var) * var).sum()


def _derivative(of: Tensor) -> Tensor:
    """Return the loss's derivative by a leaf; 0 where the loss does not depend on it."""
    return torch.zeros_like(of) if of.grad is None else of.grad
