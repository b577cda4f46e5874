"""Squeeze: train one network on the real data by a standard recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from prism_nb.core.device import half_precision, seeded, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.settings import Squeeze
from prism_nb.data.augment import ImageSet, TrainAugmentation
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import open_train_images, prefetch
from prism_nb.models.checkpoint import Checkpoint, TrainerState
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.models.teacher import Teacher
from prism_nb.models.zoo import build_network

OnStep = Callable[[dict[str, Any]], None]


def train_network(
    name: str,
    dataset: ImageDataset,
    plan: Squeeze,
    device: torch.device,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
    *,
    seed: int,
) -> nn.Module:
    """Train a network from scratch on a dataset's training images, or go on where it stood.

    Torch's global generators are used inside and restored afterwards, because weights and
    dropout draw from them.

    Args:
        name: An architecture of `build_network`.
        dataset: The real images.
        plan: How to train.
        device: Where to train.
        on_step: Told of progress, about fifty times.
        checkpoint: Where the training goes on after an interruption; None: nowhere.
        seed: Seed of the weights, the order of images, their views and any dropout.

    Returns:
        The trained network, in evaluation mode, on `device`.
    """
    images = open_train_images(dataset, device)
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    with seeded(seed, device), tf32_mode(plan.precision, device):
        network = build_network(
            name, classes=len(dataset.classes), image_size=dataset.image_size
        ).to(device)
        network.to(memory_format=torch.channels_last)
        train_loop(network, images, labels, plan, on_step, checkpoint)
    return network.eval()


@torch.no_grad()
def collect_conv_stats(
    teacher: Teacher,
    probes: Sequence[LayerStat],
    dataset: ImageDataset,
    plan: Squeeze,
    device: torch.device,
    *,
    seed: int,
) -> dict[str, MeanVar]:
    """Measure what probes see of the training images, in one pass augmented as in training.

    Args:
        teacher: The trained network.
        probes: Where to measure.
        dataset: The real images.
        plan: How the network was trained; its batches and views are used.
        device: Where the teacher lives.
        seed: Seed of the order of images and their views.

    Returns:
        By the probe's name, the mean over batches of each batch's mean and biased variance, as
        running statistics are (G-VBSM, CVPR 2024).
    """
    sums: dict[str, list[Tensor]] = {}
    labels = dataset.labels("train")
    batch, augment = min(plan.batch, len(labels)), train_augmentation(plan)
    with seeded(seed, device):
        batches = torch.randperm(len(labels)).split(batch)[: len(labels) // batch]
        for places in batches:
            images = dataset.normalize(dataset.images("train", places.tolist()).to(device))
            _, seen = teacher.forward_with_stats(augment(images), probes)
            for probe, measured in zip(probes, seen, strict=True):
                total = sums.setdefault(probe.name, [torch.zeros_like(m) for m in measured])
                for part, value in zip(total, measured, strict=True):
                    part += value / len(batches)
    return {name: MeanVar(*parts) for name, parts in sums.items()}


def train_loop(
    network: nn.Module,
    images: ImageSet,
    labels: Tensor,
    plan: Squeeze,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train a network in place, as `train_network` does with a new one."""
    batch, augment = min(plan.batch, len(images)), train_augmentation(plan)
    per_epoch = len(images) // batch
    course = Trainer(network, plan, per_epoch * plan.epochs, labels.device)
    begun = course.restore(checkpoint) if checkpoint else 0
    network.train()
    for epoch in range(begun, plan.epochs):
        parts = torch.randperm(len(images)).split(batch)[:per_epoch]
        for step, (rows, shown) in enumerate(
            zip(parts, prefetch(images, parts), strict=True), epoch * per_epoch
        ):
            loss = _loss(network, augment(shown), labels[rows], plan)
            course.step(loss)
            _report(loss, step, course.steps, on_step)
        if checkpoint and epoch + 1 < plan.epochs:
            course.offer(checkpoint, epoch + 1)


def _loss(network: nn.Module, images: Tensor, labels: Tensor, plan: Squeeze) -> Tensor:
    with half_precision(plan.precision, labels.device):
        logits: Tensor = network(images)
    return functional.cross_entropy(logits.float(), labels, label_smoothing=plan.label_smoothing)


def _report(loss: Tensor, step: int, total: int, on_step: OnStep) -> None:
    """Tell of a step if it is time to.

    Raises:
        PrismError: The loss is no longer finite.
    """
    if step % max(1, total // 50) and step != total - 1:
        return
    value = loss.item()
    if not math.isfinite(value):
        raise PrismError(f"training diverged at step {step + 1}; lower squeeze_lr")
    on_step({"step": step + 1, "steps": total, "losses": {"train": value}})


def train_augmentation(squeeze: Squeeze) -> TrainAugmentation:
    """Return the augmentation of the training images."""
    return TrainAugmentation(
        squeeze.max_shift, squeeze.crop_min, squeeze.flip, squeeze.views == "per_image"
    )


_MOMENTUM = 0.9


class Trainer:
    """Takes a network from step to step.

    Args:
        network: The network that learns.
        plan: How.
        steps: How many steps there will be.
        device: Where it is.
    """

    def __init__(self, network: nn.Module, plan: Squeeze, steps: int, device: torch.device) -> None:
        self.steps = steps
        self._optimizer = _new_optimiser(network, plan)
        self._schedule: LRScheduler = (
            CosineAnnealingLR(self._optimizer, steps)
            if plan.schedule == "cosine"
            else OneCycleLR(self._optimizer, plan.lr, total_steps=steps)
        )
        self._training = TrainerState({"network": network}, self._optimizer, device)

    def step(self, loss: Tensor) -> None:
        """Learn from one batch."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()

    def offer(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Have the state kept after so many epochs, if it is time to."""
        groups = self._optimizer.state_dict()["param_groups"]
        progress = {"epoch": epoch, "schedule": self._schedule.state_dict(), "groups": groups}
        checkpoint.maybe_save(self._training, progress)

    def restore(self, checkpoint: Checkpoint) -> int:
        """Take over a kept state, torch's random state included, and return its epochs; 0: none."""
        found = checkpoint.restore(self._training)
        if found is None:
            return 0
        self._schedule.load_state_dict(found["schedule"])
        for group, kept in zip(self._optimizer.param_groups, found["groups"], strict=True):
            group.update(_values(kept))
        return int(found["epoch"])


def _new_optimiser(network: nn.Module, plan: Squeeze) -> torch.optim.Optimizer:
    parameters, lr, decay = network.parameters(), plan.lr, plan.weight_decay
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, momentum=_MOMENTUM, weight_decay=decay, nesterov=True, fused=True
        )
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)


def _values(group: dict[str, Any]) -> dict[str, Any]:
    """Return the step size and what else changes over a training, of a group of parameters."""
    return {name: value for name, value in group.items() if name != "params"}
