"""The gradient of a step, network by network, and in parts of the batch where memory is short.

The objective is a weighted sum over networks, so each network's share of the gradient is computed
and its activations are let go before the next one runs: the most memory that a step needs is that
of its largest network, however many are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.device import is_out_of_memory
from prism_nb.core.errors import PrismError
from prism_nb.data.augment import AugParams, augment
from prism_nb.models.checkpoint import strip_prefix
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.synthesis.objective import (
    Objective,
    StatMatcher,
    TeacherTerm,
    bn_loss_of,
    weighted_sum,
)


class MicroBatchedBackward:
    """Adds a step's gradient to the images, within the memory that there is.

    Parts give the whole batch's gradient to rounding, for a second pass forward through every
    network that gives statistics, and for whatever small batches cost.

    Args:
        objective: What the images are optimised for.
        part: Images that a network sees at once; 0: all of them.

    Attributes:
        part: The same, halved each time that memory ran out.
    """

    def __init__(self, objective: Objective, part: int = 0) -> None:
        self._objective, self.part = objective, part

    def __call__(
        self,
        groups: Sequence[Tensor],
        views: list[AugParams],
        labels: Tensor,
        *,
        logit_teachers: Sequence[str],
        bn_teachers: Sequence[str],
    ) -> dict[str, Tensor]:
        """Compute a step's terms and leave the gradient in the groups.

        Args:
            groups: The images, canonical [n, 3, H, W] each, with a gradient to be replaced.
            views: One view for all images, or one for each.
            labels: Class indices of all images.
            logit_teachers: The networks that give the logits.
            bn_teachers: The networks that give their statistics.

        Returns:
            The named, unweighted terms.
        """
        while True:
            for group in groups:
                group.grad = None
            forget = [watch.remember() for watch in self._objective.matchers]
            try:
                return self._try(groups, views, labels, logit_teachers, bn_teachers)
            except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU it is plain
                size = self.part or len(labels)
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise PrismError(
                        "a single image does not fit into the device's memory; use smaller "
                        "networks, a smaller image_size or another device"
                    ) from None
                self.part = -(-size // 2)
                for undo in forget:
                    undo()

    def tensors(self) -> dict[str, Tensor]:
        """Return what is remembered from step to step, by name."""
        means = {
            f"means/{watch.name}/{name}": value
            for watch in self._objective.matchers
            for name, value in watch.tensors().items()
        }
        return {"part": torch.tensor(self.part), **means}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was remembered; parts stay as small as is asked for now."""
        parts = [part for part in (self.part, int(tensors["part"])) if part]
        self.part = min(parts, default=0)
        for watch in self._objective.matchers:
            watch.restore(strip_prefix(tensors, f"means/{watch.name}"))

    def _try(
        self,
        groups: Sequence[Tensor],
        views: list[AugParams],
        labels: Tensor,
        logit_teachers: Sequence[str],
        bn_teachers: Sequence[str],
    ) -> dict[str, Tensor]:
        images = torch.cat(list(groups)) if len(groups) > 1 else groups[0]
        view = augment(images, views)
        # A cyclic shift may leave another layout; networks are compiled for one.
        shown = view.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        weights = self._objective.weights(logit_teachers, bn_teachers)
        losses: dict[str, Tensor] = {}
        for role in self._objective.roles(logit_teachers, bn_teachers):
            if 0 < self.part < len(labels):
                losses |= backward_micro_batched(role, shown, labels, weights, size=self.part)
            else:
                losses |= _backward(role.losses(shown, labels), weights)
        priors = self._objective.priors(images, view, labels)
        slope = torch.zeros_like(view) if shown.grad is None else shown.grad
        ends: list[Tensor] = [view]
        slopes: list[Tensor | None] = [slope]
        if priors:
            ends, slopes = [*ends, weighted_sum(priors, weights)], [*slopes, None]
        torch.autograd.backward(ends, slopes)
        return losses | {name: value.detach() for name, value in priors.items()}


def _backward(losses: dict[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Add the gradient of one network's terms to the view's."""
    total = weighted_sum(losses, weights)
    if total.requires_grad:
        total.backward()
    return {name: value.detach() for name, value in losses.items()}


BatchStats = dict[LayerStat, MeanVar]


def backward_micro_batched(
    role: TeacherTerm, shown: Tensor, labels: Tensor, weights: Mapping[str, float], *, size: int
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
    pooled: BatchStats = {}
    if role.matches_stats:
        pooled = _pool(watch, watch.sample_layers(), shown, size)
        loss = bn_loss_of(watch, pooled, like=shown)
        if pooled:
            (weights[bn] * loss).backward()
        losses[bn] = loss.detach()
    if not role.gives_logits and not pooled:
        return losses
    for part, classes in zip(shown.split(size), labels.split(size), strict=True):
        share = len(part) / len(shown)
        if role.gives_logits:
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
def _pool(watch: StatMatcher, probes: Sequence[LayerStat], shown: Tensor, size: int) -> BatchStats:
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


def _whole(shares: Sequence[float], parts: Sequence[MeanVar]) -> MeanVar:
    mean = torch.stack([s * part.mean for s, part in zip(shares, parts, strict=True)]).sum(0)
    spread = [
        s * (part.var + (part.mean - mean).square()) for s, part in zip(shares, parts, strict=True)
    ]
    return MeanVar(mean.requires_grad_(), torch.stack(spread).sum(0).requires_grad_())


def _slope(whole: MeanVar, here: MeanVar) -> Tensor:
    """Return a part's term of the surrogate, for one probe."""
    var = here.var + (here.mean - whole.mean.detach()).square()
    return (_derivative(whole.mean) * here.mean).sum() + (_derivative(whole.var) * var).sum()


def _derivative(of: Tensor) -> Tensor:
    """Return the loss's derivative by a leaf; 0 where the loss does not depend on it."""
    return torch.zeros_like(of) if of.grad is None else of.grad
