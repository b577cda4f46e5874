"""The gradient of a step, one network after the other, and in micro-batches if memory is short.

The loss is a weighted sum over networks. Each network's part of the gradient is computed, and its
activations freed, before the next network runs: a step's peak memory is that of its largest
network. Where even that does not fit, a network runs on micro-batches in two passes that give the
whole batch's gradient to rounding. With shares s_p of the micro-batches p in the batch, statistics
are pooled without gradients first,

    mean = sum_p s_p mean_p,    var = sum_p s_p (var_p + (mean_p - mean)^2),

then the loss is differentiated by the pooled statistics alone. Each micro-batch runs again, with
gradients, and backpropagates the scalar

    s_p (dL/dmean . mean_p + dL/dvar . (var_p + (mean_p - stopgrad(mean))^2)),

whose gradients add up to that of L, by the chain rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.device import is_out_of_memory
from prism_nb.core.errors import PrismError
from prism_nb.data.augment import AugParams, augment
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.synthesis.objective import Objective, StatMatcher, weighted_sum


@dataclass(frozen=True)
class StepInputs:
    """What the loss of one step depends on."""

    groups: Sequence[Tensor]  # the images, canonical [n, 3, H, W] each
    aug_params: list[AugParams]  # one augmentation for all images, or one per image
    labels: Tensor  # class indices of all images
    logit_teachers: Sequence[str]  # F, names of the networks with a cross-entropy term
    bn_teachers: Sequence[str] = ()  # T, names of the networks with a BN term


class Backward(ABC):
    """Backward pass of a step's loss within the device's memory.

    It is computed in `micro_batch_size` parts of the batch per forward pass of a network, 0 being
    the whole batch; the size is halved each time that memory runs out. The matchers' state between
    steps is saved with it.
    """

    def __init__(self, micro_batch_size: int = 0, matchers: Sequence[StatMatcher] = ()) -> None:
        self.micro_batch_size, self._matchers = micro_batch_size, matchers

    @abstractmethod
    def __call__(self, step: StepInputs) -> dict[str, Tensor]:
        """Compute a step's loss terms and replace the gradients of the images.

        Returns:
            The unweighted terms by name, without gradients.

        Raises:
            PrismError: A single part of the batch does not fit.
        """

    @abstractmethod
    def gradients(self, step: StepInputs) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield the name of each weighted teacher term, and its gradient on the groups of images.

        After the last one the images' own gradients, and the state between steps, are as before.
        """

    def _within_memory(
        self, step: StepInputs, parts: int, work: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Do work that sets the gradients; where memory runs out, in smaller micro-batches.

        `parts` is the number that a whole batch has of what `micro_batch_size` counts.
        """
        while True:
            for group in step.groups:
                group.grad = None
            before = self._matcher_states()
            try:
                return work()
            except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU it is plain
                if not is_out_of_memory(error):
                    raise
                size = self.micro_batch_size or parts
                if size == 1:
                    raise PrismError(
                        "a single image does not fit into the device's memory; use smaller "
                        "networks, a smaller image_size or another device"
                    ) from None
                self.micro_batch_size = -(-size // 2)
                self._load_matcher_states(before)

    def state_dict(self) -> dict[str, Any]:
        """Return the micro-batch size and the state of every matcher."""
        return {"micro_batch_size": self.micro_batch_size, "matchers": self._matcher_states()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore that state; the micro-batch size is never raised above the present one."""
        sizes = [s for s in (self.micro_batch_size, state["micro_batch_size"]) if s]
        self.micro_batch_size = min(sizes, default=0)
        self._load_matcher_states(state["matchers"])

    def _matcher_states(self) -> list[dict[str, Any]]:
        return [matcher.state_dict() for matcher in self._matchers]

    def _load_matcher_states(self, states: list[dict[str, Any]]) -> None:
        for matcher, state in zip(self._matchers, states, strict=True):
            matcher.load_state_dict(state)


class MicroBatchedBackward(Backward):
    """Backward pass of an objective; a micro-batch has `micro_batch_size` images."""

    def __init__(self, objective: Objective, micro_batch_size: int = 0) -> None:
        super().__init__(micro_batch_size, objective.matchers)
        self._objective = objective

    def __call__(self, step: StepInputs) -> dict[str, Tensor]:
        """Compute a step's loss terms and replace the gradients of the images."""
        weights = self._objective.weights(step.logit_teachers, step.bn_teachers)
        work = lambda: self._forward_backward(step, weights, with_priors=True)  # noqa: E731
        return self._within_memory(step, len(step.labels), work)

    def gradients(self, step: StepInputs) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield the name of each weighted teacher term, and its gradient on the groups."""
        weights = self._objective.weights(step.logit_teachers, step.bn_teachers)
        alone = {
            **{f"logit/{name}": ([name], []) for name in step.logit_teachers},
            **{f"bn/{name}": ([], [name]) for name in step.bn_teachers},
        }
        kept, states = [group.grad for group in step.groups], self._matcher_states()
        for term, (logit, bn) in alone.items():
            part = replace(step, logit_teachers=logit, bn_teachers=bn)
            work = lambda: self._forward_backward(part, weights, with_priors=False)  # noqa: B023, E731
            self._within_memory(part, len(step.labels), work)
            self._load_matcher_states(states)
            yield term, [group.grad for group in step.groups if group.grad is not None]
        for group, gradient in zip(step.groups, kept, strict=True):
            group.grad = gradient

    def _forward_backward(
        self, step: StepInputs, weights: Mapping[str, float], *, with_priors: bool
    ) -> dict[str, Tensor]:
        groups, labels = step.groups, step.labels
        images = torch.cat(list(groups)) if len(groups) > 1 else groups[0]
        augmented = augment(images, step.aug_params)
        # The networks' input, cut off from the images: each network adds to its gradient. A cyclic
        # shift may leave another memory format, and networks are compiled for one.
        leaf = augmented.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        losses: dict[str, Tensor] = {}
        for matcher in self._objective.matchers_of(step.logit_teachers, step.bn_teachers):
            roles = {
                "gives_logits": matcher.name in step.logit_teachers,
                "matches_stats": matcher.name in step.bn_teachers,
            }
            if 0 < (size := self.micro_batch_size) < len(labels):
                losses |= _backward_micro_batched(
                    matcher, leaf, labels, weights, size=size, **roles
                )
            else:
                losses |= _backward(matcher.losses(leaf, labels, **roles), weights)
        priors = self._objective.priors(images, augmented, labels) if with_priors else {}
        gradient = torch.zeros_like(augmented) if leaf.grad is None else leaf.grad
        if priors:
            total = weighted_sum(priors, weights)
            torch.autograd.backward([augmented, total], [gradient, None])
        else:
            augmented.backward(gradient)
        return losses | {name: value.detach() for name, value in priors.items()}


def _backward(losses: dict[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Backpropagate one network's terms."""
    total = weighted_sum(losses, weights)
    if total.requires_grad:
        total.backward()
    return {name: value.detach() for name, value in losses.items()}


def _backward_micro_batched(
    matcher: StatMatcher,
    leaf: Tensor,
    labels: Tensor,
    weights: Mapping[str, float],
    *,
    size: int,
    gives_logits: bool,
    matches_stats: bool,
) -> dict[str, Tensor]:
    """Backpropagate one network's terms in micro-batches of a size; return them as `_backward`."""
    runner, losses = matcher.runner, dict[str, Tensor]()
    logit, bn = f"logit/{matcher.name}", f"bn/{matcher.name}"
    pooled: dict[LayerStat, MeanVar] = {}
    if matches_stats:
        pooled = _pool_stats(matcher, matcher.sample_layers(), leaf, size)
        loss = matcher.loss(pooled) if pooled else leaf.new_zeros(())
        if pooled:
            (weights[bn] * loss).backward()
        losses[bn] = loss.detach()
    if not gives_logits and not pooled:
        return losses
    for images, classes in zip(leaf.split(size), labels.split(size), strict=True):
        share = len(images) / len(leaf)
        if gives_logits:
            logits, values = runner.forward_with_stats(images, tuple(pooled))
            entropy = matcher.cross_entropy(logits, classes)
            losses[logit] = losses.get(logit, 0) + share * entropy.detach()
            surrogate = [weights[logit] * entropy]
        else:
            values, surrogate = runner.stats_only(images, tuple(pooled)), []
        surrogate += [_surrogate_loss(*pair) for pair in zip(pooled.values(), values, strict=True)]
        (share * torch.stack(surrogate).sum()).backward()
    return losses


@torch.no_grad()
def _pool_stats(
    matcher: StatMatcher, stats: Sequence[LayerStat], images: Tensor, size: int
) -> dict[LayerStat, MeanVar]:
    """Return the statistics of the whole batch, as leaves that require a gradient."""
    if not stats:
        return {}
    micro_batches = images.split(size)
    shares = [len(each) / len(images) for each in micro_batches]
    values = [matcher.runner.stats_only(each, stats) for each in micro_batches]
    return {
        stat: _merge_stats(shares, [each[index] for each in values])
        for index, stat in enumerate(stats)
    }


def _merge_stats(shares: Sequence[float], parts: Sequence[MeanVar]) -> MeanVar:
    mean = torch.stack([s * part.mean for s, part in zip(shares, parts, strict=True)]).sum(0)
    var = [
        s * (part.var + (part.mean - mean).square()) for s, part in zip(shares, parts, strict=True)
    ]
    return MeanVar(mean.requires_grad_(), torch.stack(var).sum(0).requires_grad_())


def _surrogate_loss(pooled: MeanVar, part: MeanVar) -> Tensor:
    """Return a micro-batch's scalar for one statistic, by the formula above, without its share."""
    var = part.var + (part.mean - pooled.mean.detach()).square()
    return (_grad_or_zero(pooled.mean) * part.mean).sum() + (_grad_or_zero(pooled.var) * var).sum()


def _grad_or_zero(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
