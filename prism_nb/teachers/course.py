"""The course of a training: its optimiser, its step size, and where it stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from prism_nb.teachers.squeeze_plan import SqueezePlan
from prism_nb.training.checkpoint import Checkpoint, Training

_MOMENTUM = 0.9


class Course:
    """Takes a network from step to step.

    Args:
        network: The network that learns.
        plan: How.
        steps: How many steps there will be.
        device: Where it is.
    """

    def __init__(
        self, network: nn.Module, plan: SqueezePlan, steps: int, device: torch.device
    ) -> None:
        self.steps = steps
        self._optimiser = _new_optimiser(network, plan)
        self._schedule: LRScheduler = (
            CosineAnnealingLR(self._optimiser, steps)
            if plan.schedule == "cosine"
            else OneCycleLR(self._optimiser, plan.lr, total_steps=steps)
        )
        self._training = Training({"network": network}, self._optimiser, device)

    def step(self, loss: Tensor) -> None:
        """Learn from one batch."""
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self._schedule.step()

    def offer(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Have the state kept after so many epochs, if it is time to."""
        groups = self._optimiser.state_dict()["param_groups"]
        progress = {"epoch": epoch, "schedule": self._schedule.state_dict(), "groups": groups}
        checkpoint.offer(self._training, progress)

    def restore(self, checkpoint: Checkpoint) -> int:
        """Take over a kept state, torch's random state included, and return its epochs; 0: none."""
        found = checkpoint.restore(self._training)
        if found is None:
            return 0
        self._schedule.load_state_dict(found["schedule"])
        for group, kept in zip(self._optimiser.param_groups, found["groups"], strict=True):
            group.update(_values(kept))
        return int(found["epoch"])


def _new_optimiser(network: nn.Module, plan: SqueezePlan) -> torch.optim.Optimizer:
    parameters, lr, decay = network.parameters(), plan.lr, plan.weight_decay
    if plan.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, momentum=_MOMENTUM, weight_decay=decay, nesterov=True, fused=True
        )
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)


def _values(group: dict[str, Any]) -> dict[str, Any]:
    """Return the step size and what else changes over a training, of a group of parameters."""
    return {name: value for name, value in group.items() if name != "params"}
