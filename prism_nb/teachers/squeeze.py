"""Squeeze: train one network on the real data by a standard recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.artifacts.views import ImageSet
from prism_nb.data import ImageDataset
from prism_nb.device import half_precision, matrix_precision, seeded
from prism_nb.errors import PrismError
from prism_nb.teachers.course import Course
from prism_nb.teachers.networks import build_network
from prism_nb.teachers.squeeze_plan import SqueezePlan
from prism_nb.teachers.statistics import Probe, Statistics
from prism_nb.teachers.teacher import Teacher
from prism_nb.training.checkpoint import Checkpoint
from prism_nb.training.images import in_turn, real_images

OnStep = Callable[[dict[str, Any]], None]


def train_network(
    name: str,
    dataset: ImageDataset,
    plan: SqueezePlan,
    device: torch.device,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
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

    Returns:
        The trained network, in evaluation mode, on `device`.
    """
    images = real_images(dataset, device)
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    with seeded(plan.seed, device), matrix_precision(plan.precision, device):
        network = build_network(
            name, classes=len(dataset.classes), image_size=dataset.image_size
        ).to(device)
        network.to(memory_format=torch.channels_last)
        optimise(network, images, labels, plan, on_step, checkpoint)
    return network.eval()


@torch.no_grad()
def mean_statistics(
    teacher: Teacher,
    probes: Sequence[Probe],
    dataset: ImageDataset,
    plan: SqueezePlan,
    device: torch.device,
) -> dict[str, Statistics]:
    """Measure what probes see of the training images, in one pass augmented as in training.

    Args:
        teacher: The trained network.
        probes: Where to measure.
        dataset: The real images.
        plan: How the network was trained; batch, views and seed are used.
        device: Where the teacher lives.

    Returns:
        By the probe's name, the mean over batches of each batch's mean and biased variance, as
        running statistics are (G-VBSM, CVPR 2024).
    """
    sums: dict[str, list[Tensor]] = {}
    labels = dataset.labels("train")
    batch = min(plan.batch, len(labels))
    with seeded(plan.seed, device):
        batches = torch.randperm(len(labels)).split(batch)[: len(labels) // batch]
        for places in batches:
            images = dataset.canonical(dataset.images("train", places.tolist()).to(device))
            _, seen = teacher.observe(plan.augment(images), probes)
            for probe, measured in zip(probes, seen, strict=True):
                total = sums.setdefault(probe.name, [torch.zeros_like(m) for m in measured])
                for part, value in zip(total, measured, strict=True):
                    part += value / len(batches)
    return {name: Statistics(*parts) for name, parts in sums.items()}


def optimise(
    network: nn.Module,
    images: ImageSet,
    labels: Tensor,
    plan: SqueezePlan,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train a network in place, as `train_network` does with a new one."""
    batch = min(plan.batch, len(images))
    per_epoch = len(images) // batch
    course = Course(network, plan, per_epoch * plan.epochs, labels.device)
    begun = course.restore(checkpoint) if checkpoint else 0
    network.train()
    for epoch in range(begun, plan.epochs):
        parts = torch.randperm(len(images)).split(batch)[:per_epoch]
        for step, (rows, shown) in enumerate(
            zip(parts, in_turn(images, parts), strict=True), epoch * per_epoch
        ):
            loss = _loss(network, plan.augment(shown), labels[rows], plan)
            course.step(loss)
            _report(loss, step, course.steps, on_step)
        if checkpoint and epoch + 1 < plan.epochs:
            course.offer(checkpoint, epoch + 1)


def _loss(network: nn.Module, images: Tensor, labels: Tensor, plan: SqueezePlan) -> Tensor:
    with half_precision(plan.precision, labels.device):
        logits: Tensor = network(images)
    return functional.cross_entropy(logits.float(), labels, label_smoothing=plan.smoothing)


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
