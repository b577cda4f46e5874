"""Training of one student on distilled images and their stored soft labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prism_nb.artifacts.labels import EpochLabels
from prism_nb.artifacts.views import render
from prism_nb.data import ImageDataset
from prism_nb.device import half_precision, matrix_precision, seeded
from prism_nb.errors import PrismError
from prism_nb.evaluation.protocol import learning_rate_factor, parameter_groups, student_loss
from prism_nb.teachers.accuracy import accuracy
from prism_nb.teachers.networks import build_network


@dataclass(frozen=True)
class Curriculum:
    """How to train a student.

    Attributes:
        epochs: Passes over the images; epoch e uses the views and labels stored for e.
        batch: Images per step; the last batch of an epoch may be smaller, but not a single one.
        lr: Initial step size of AdamW.
        weight_decay: On matrices and kernels.
        hard_weight: Weight of the true class beside the soft label.
        evaluate_every: Epochs between two evaluations; the last epoch is always evaluated.
        seed: Seed of the weights and of the order of images.
        precision: Of the student's layers; weights, loss and evaluation are fp32.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    hard_weight: float
    evaluate_every: int
    seed: int
    precision: str = "fp32"


def train_student(
    name: str,
    dataset: ImageDataset,
    images: Tensor,
    classes: Tensor,
    labels_of: Callable[[int], EpochLabels],
    plan: Curriculum,
    on_epoch: Callable[[dict[str, Any]], None],
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a student from scratch.

    Args:
        name: An architecture of `build_network`.
        dataset: The real images to be evaluated on (its held-out split).
        images: Distilled images, canonical [N, 3, S, S], on the device to train on.
        classes: Their classes [N].
        labels_of: Returns the labels of an epoch, on that device.
        plan: How to train.
        on_epoch: Told of each epoch.

    Returns:
        The student in evaluation mode, and one row per evaluation: epoch (1-based), lr, mean
        training loss, top-1 accuracy on the held-out real images in [0, 1].
    """
    exact = matrix_precision(plan.precision, images.device)
    with seeded(plan.seed, images.device), exact:
        student, optimiser = new_student(name, dataset, plan, images.device)
        rows = []
        for epoch in range(plan.epochs):
            for group in optimiser.param_groups:
                group["lr"] = plan.lr * learning_rate_factor(epoch, plan.epochs)
            loss = train_epoch(student, optimiser, images, classes, labels_of(epoch), plan)
            if not math.isfinite(loss):
                raise PrismError(f"student {name} diverged in epoch {epoch + 1}; lower student_lr")
            on_epoch({"step": epoch + 1, "steps": plan.epochs, "losses": {"student": loss}})
            if (epoch + 1) % plan.evaluate_every == 0 or epoch + 1 == plan.epochs:
                student.eval()
                top1 = accuracy(student, dataset, "val", images.device)
                lr = optimiser.param_groups[0]["lr"]
                rows.append({"epoch": epoch + 1, "lr": lr, "loss": loss, "top1": top1})
    return student.eval(), rows


def new_student(
    name: str, dataset: ImageDataset, plan: Curriculum, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return an untrained student and its optimiser; weights come from the global generators."""
    student = build_network(name, classes=len(dataset.classes), image_size=dataset.image_size)
    student.to(device).to(memory_format=torch.channels_last)
    groups = parameter_groups(student, weight_decay=plan.weight_decay)
    return student, torch.optim.AdamW(groups, lr=plan.lr, fused=True)


def train_epoch(
    student: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    classes: Tensor,
    labels: EpochLabels,
    plan: Curriculum,
) -> float:
    """Train a student for one epoch, in a fresh order, and return the mean loss."""
    student.train()
    total = torch.zeros((), device=images.device)
    steps = _batches(len(images), plan.batch)
    for rows in steps:
        rows = rows.to(images.device)
        view = render(images, labels.views, rows)
        with half_precision(plan.precision, images.device):
            logits = student(view)
        soft = labels.logits[rows].float()
        loss = student_loss(logits.float(), soft, classes[rows], hard_weight=plan.hard_weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.detach()
    return total.item() / len(steps)


def _batches(count: int, size: int) -> list[Tensor]:
    """Shuffle and cut; a last batch of one, which batch norm cannot take, joins its neighbour."""
    parts = list(torch.randperm(count).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
