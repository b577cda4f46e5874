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

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.synthesis.objective import Objective, aligned
from prism_nb.synthesis.watch import Watch
from prism_nb.teachers.statistics import Probe, Statistics

Pooled = dict[Probe, Statistics]


def backward_in_parts(
    objective: Objective,
    images: Tensor,
    view: Tensor,
    labels: Tensor,
    *,
    speakers: Sequence[str],
    team: Sequence[str],
    size: int,
) -> dict[str, Tensor]:
    """Compute a step's terms and add its gradient to the images', `size` images at a time.

    Args:
        objective: What the images are optimised for.
        images: The images themselves, canonical [N, 3, H, W], with a gradient.
        view: The augmented images, computed from them.
        labels: Class indices [N].
        speakers: The networks that give the logits.
        team: The networks that give their statistics.
        size: Images that a network sees at once, at least 1.

    Returns:
        The terms of `Objective.terms`, without gradients.
    """
    shown = view.detach().requires_grad_()
    classifiers, observed = objective.roles(speakers, team)
    pooled: dict[Watch, Pooled] = {}
    losses = objective.priors(images, shown, labels)
    for watch in dict.fromkeys([*classifiers, *observed]):
        if watch in observed:
            pooled[watch] = _pool(watch, watch.draw_probes(), shown, size)
            losses[f"bn/{watch.name}"] = aligned(watch, pooled[watch], like=shown)
        if watch in classifiers:
            losses[f"logit/{watch.name}"] = shown.new_zeros((), requires_grad=True)
    objective.total(losses).backward()
    logits = {watch: losses[f"logit/{watch.name}"] for watch in classifiers}
    for part, classes in zip(shown.split(size), labels.split(size), strict=True):
        share = len(part) / len(shown)
        for watch in dict.fromkeys([*classifiers, *observed]):
            _follow(watch, part, classes, share, pooled.get(watch, {}), logits.get(watch))
    view.backward(shown.grad)
    return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def _pool(watch: Watch, probes: Sequence[Probe], shown: Tensor, size: int) -> Pooled:
    """Return the whole batch's statistics, ready to take a gradient."""
    if not probes:
        return {}
    parts = shown.split(size)
    shares = [len(part) / len(shown) for part in parts]
    seen = [watch.teacher.statistics(part, probes) for part in parts]
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


def _follow(
    watch: Watch,
    part: Tensor,
    classes: Tensor,
    share: float,
    pooled: Pooled,
    logit: Tensor | None,
) -> None:
    """Add a part's gradient through one network, and its share to the logit loss."""
    if not pooled and logit is None:
        return
    probes = tuple(pooled)
    if logit is None:
        seen, surrogate = watch.teacher.statistics(part, probes), []
    else:
        answers, seen = watch.teacher.observe(part, probes)
        loss = functional.cross_entropy(answers, classes)
        surrogate = [_derivative(logit) * loss]
        with torch.no_grad():
            logit += share * loss
    surrogate += [
        (_derivative(whole.mean) * here.mean).sum()
        + (_derivative(whole.var) * (here.var + (here.mean - whole.mean.detach()).square())).sum()
        for whole, here in zip(pooled.values(), seen, strict=True)
    ]
    (share * torch.stack(surrogate).sum()).backward()


def _derivative(of: Tensor) -> Tensor:
    """Return the loss's derivative by a leaf; 0 where the loss does not depend on it."""
    return torch.zeros_like(of) if of.grad is None else of.grad
