"""The gradient of a step, network by network, and in parts of the batch where memory is short.

The objective is a weighted sum over networks, so each network's share of the gradient is computed
and its activations are let go before the next one runs: the most memory that a step needs is that
of its largest network, however many are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from prism_nb.device import is_out_of_memory
from prism_nb.errors import PrismError
from prism_nb.synthesis.augment import View, apply_views
from prism_nb.synthesis.objective import Objective, weigh
from prism_nb.synthesis.parts import backward_in_parts
from prism_nb.training.checkpoint import under


class Gradient:
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
        views: list[View],
        labels: Tensor,
        *,
        speakers: Sequence[str],
        team: Sequence[str],
    ) -> dict[str, Tensor]:
        """Compute a step's terms and leave the gradient in the groups.

        Args:
            groups: The images, canonical [n, 3, H, W] each, with a gradient to be replaced.
            views: One view for all images, or one for each.
            labels: Class indices of all images.
            speakers: The networks that give the logits.
            team: The networks that give their statistics.

        Returns:
            The named, unweighted terms.
        """
        while True:
            for group in groups:
                group.grad = None
            forget = [watch.remember() for watch in self._objective.watches]
            try:
                return self._try(groups, views, labels, speakers, team)
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
            for watch in self._objective.watches
            for name, value in watch.tensors().items()
        }
        return {"part": torch.tensor(self.part), **means}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was remembered; parts stay as small as is asked for now."""
        parts = [part for part in (self.part, int(tensors["part"])) if part]
        self.part = min(parts, default=0)
        for watch in self._objective.watches:
            watch.restore(under(tensors, f"means/{watch.name}"))

    def _try(
        self,
        groups: Sequence[Tensor],
        views: list[View],
        labels: Tensor,
        speakers: Sequence[str],
        team: Sequence[str],
    ) -> dict[str, Tensor]:
        images = torch.cat(list(groups)) if len(groups) > 1 else groups[0]
        view = apply_views(images, views)
        # A cyclic shift may leave another layout; networks are compiled for one.
        shown = view.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        weights = self._objective.weights(speakers, team)
        losses: dict[str, Tensor] = {}
        for role in self._objective.roles(speakers, team):
            if 0 < self.part < len(labels):
                losses |= backward_in_parts(role, shown, labels, weights, size=self.part)
            else:
                losses |= _backward(role.losses(shown, labels), weights)
        priors = self._objective.priors(images, view, labels)
        slope = torch.zeros_like(view) if shown.grad is None else shown.grad
        ends: list[Tensor] = [view]
        slopes: list[Tensor | None] = [slope]
        if priors:
            ends, slopes = [*ends, weigh(priors, weights)], [*slopes, None]
        torch.autograd.backward(ends, slopes)
        return losses | {name: value.detach() for name, value in priors.items()}


def _backward(losses: dict[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Add the gradient of one network's terms to the view's."""
    total = weigh(losses, weights)
    if total.requires_grad:
        total.backward()
    return {name: value.detach() for name, value in losses.items()}
