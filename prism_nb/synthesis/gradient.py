"""The gradient of a step: of the whole batch at once, or in parts where memory is short."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prism_nb.synthesis.augment import View, apply_views
from prism_nb.synthesis.objective import Objective
from prism_nb.synthesis.parts import backward_in_parts


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
                if not _is_out_of_memory(error) or size == 1:
                    raise
                self.part = -(-size // 2)
                for undo in forget:
                    undo()

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
        roles = {"speakers": speakers, "team": team}
        if 0 < self.part < len(labels):
            return backward_in_parts(self._objective, images, view, labels, size=self.part, **roles)
        losses = self._objective.terms(images, view, labels, **roles)
        self._objective.total(losses).backward()
        return losses


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
