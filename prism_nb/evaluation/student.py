"""Training of one student, by whatever protocol, from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prism_nb.artifacts.labels import EpochLabels
from prism_nb.artifacts.views import ImageSet, in_batches, render
from prism_nb.data import ImageDataset
from prism_nb.device import half_precision, matrix_precision, seeded
from prism_nb.errors import PrismError
from prism_nb.evaluation.judge import Verdict, judge
from prism_nb.evaluation.material import Material
from prism_nb.evaluation.protocol import (
    learning_rate_factor,
    match_logits,
    match_probabilities,
    mixed_cross_entropy,
    new_optimiser,
)
from prism_nb.teachers.networks import build_network
from prism_nb.training.checkpoint import Checkpoint, Training

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """How to train a student.

    Attributes:
        epochs: Passes over the images.
        batch: Images per step; the last batch of an epoch may be smaller, but not a single one.
        optimiser: `adamw` or `sgd`.
        lr: Initial step size.
        weight_decay: On matrices and kernels.
        schedule: Of the step size, see `learning_rate_factor`.
        loss: `mse_ce`, `kl` or `ce`; the last learns from the true classes alone.
        hard_weight: Weight of the true class beside the soft label, in `mse_ce`.
        temperature: That `kl` softens by.
        ema: Decay of the averaged copy that is judged in the student's place; 0: none.
        evaluate_every: Epochs between two evaluations; the last epoch is always evaluated.
        seed: Seed of the weights and of the order of images.
        precision: Of the student's layers; weights, loss and evaluation are fp32.
    """

    epochs: int
    batch: int
    optimiser: str
    lr: float
    weight_decay: float
    schedule: str
    loss: str
    hard_weight: float
    temperature: float
    ema: float
    evaluate_every: int
    seed: int
    precision: str = "fp32"


class Pupil:
    """A student, its optimiser, and its averaged copy where there is one.

    Args:
        name: An architecture of `build_network`; weights come from torch's global generators.
        dataset: Whose classes and image size it is for.
        plan: How it will be trained.
        device: Where.
    """

    def __init__(
        self, name: str, dataset: ImageDataset, plan: Curriculum, device: torch.device
    ) -> None:
        network = build_network(name, classes=len(dataset.classes), image_size=dataset.image_size)
        self.student = network.to(device).to(memory_format=torch.channels_last)
        self.optimiser = new_optimiser(
            self.student, plan.optimiser, lr=plan.lr, weight_decay=plan.weight_decay
        )
        self._average = (
            AveragedModel(
                self.student, multi_avg_fn=get_ema_multi_avg_fn(plan.ema), use_buffers=True
            )
            if plan.ema
            else None
        )

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated and kept."""
        return self.student if self._average is None else self._average.module

    def step(self, loss: Tensor) -> None:
        """Learn from one batch."""
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self.student)

    def training(self, device: torch.device) -> Training:
        """Return all that decides how the training goes on."""
        networks: dict[str, nn.Module] = {"student": self.student}
        if self._average is not None:
            networks["average"] = self._average
        return Training(networks, self.optimiser, device)


def train_student(
    name: str,
    dataset: ImageDataset,
    material: Material,
    plan: Curriculum,
    on_epoch: Callable[[dict[str, Any]], None],
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, list[Row], Verdict]:
    """Train a student from scratch, or from where a checkpoint of this training stands.

    Args:
        name: An architecture of `build_network`.
        dataset: The real images to be evaluated on (its held-out split).
        material: What it is taught from.
        plan: How to train.
        on_epoch: Told of each epoch.
        checkpoint: Where the training goes on after an interruption; None: nowhere.

    Returns:
        The student in evaluation mode; one row per evaluation: epoch (1-based), lr, mean training
        loss, top1 and top5 on the held-out real images in [0, 1]; and the last verdict.

    Raises:
        PrismError: The loss is no longer finite.
    """
    device = material.classes.device
    with seeded(plan.seed, device), matrix_precision(plan.precision, device):
        pupil = Pupil(name, dataset, plan, device)
        training, rows = pupil.training(device), list[Row]()
        found = checkpoint.restore(training) if checkpoint else None
        begun, rows = (found["epoch"], found["rows"]) if found else (0, rows)
        for epoch in range(begun, plan.epochs):
            row, verdict = _teach(pupil, name, dataset, material, plan, epoch)
            on_epoch({"step": epoch + 1, "steps": plan.epochs, "losses": {"student": row["loss"]}})
            if verdict is not None:
                rows.append(row | {"top1": verdict.top1, "top5": verdict.top5})
            if checkpoint and epoch + 1 < plan.epochs:
                checkpoint.offer(training, {"epoch": epoch + 1, "rows": rows})
    assert verdict is not None  # noqa: S101 (the last epoch is always evaluated)
    return pupil.judged.eval(), rows, verdict


def _teach(
    pupil: Pupil, name: str, dataset: ImageDataset, material: Material, plan: Curriculum, epoch: int
) -> tuple[Row, Verdict | None]:
    """Train for one epoch, and judge the student if it is time to."""
    lr = plan.lr * learning_rate_factor(plan.schedule, epoch, plan.epochs)
    for group in pupil.optimiser.param_groups:
        group["lr"] = lr
    loss = train_epoch(pupil, material.images, material.classes, material.labels_of(epoch), plan)
    if not math.isfinite(loss):
        raise PrismError(f"student {name} diverged in epoch {epoch + 1}; lower student_lr")
    row = {"epoch": epoch + 1, "lr": lr, "loss": loss}
    if (epoch + 1) % plan.evaluate_every and epoch + 1 < plan.epochs:
        return row, None
    device = material.classes.device
    with matrix_precision("fp32", device):
        return row, judge(pupil.judged.eval(), dataset, device)


def train_epoch(
    pupil: Pupil, images: ImageSet, classes: Tensor, labels: EpochLabels, plan: Curriculum
) -> float:
    """Train a student for one epoch, in a fresh order, and return the mean loss."""
    pupil.student.train()
    total = torch.zeros((), device=classes.device)
    steps = in_batches(torch.randperm(len(images)), plan.batch)
    for rows in steps:
        rows = rows.to(classes.device)
        view = render(images, labels.views, rows)
        with half_precision(plan.precision, classes.device):
            logits = pupil.student(view)
        loss = _loss(logits.float(), labels, rows, classes, plan, view.shape[-1])
        pupil.step(loss)
        total += loss.detach()
    return total.item() / len(steps)


def _loss(
    logits: Tensor, labels: EpochLabels, rows: Tensor, classes: Tensor, plan: Curriculum, size: int
) -> Tensor:
    if labels.logits is None:
        views = labels.views.rows(rows)
        other = classes[views.partner.long()]
        return mixed_cross_entropy(logits, classes[rows], other, views.share(size))
    soft = labels.logits[rows].float()
    if plan.loss == "kl":
        return match_probabilities(logits, soft, temperature=plan.temperature)
    return match_logits(logits, soft, classes[rows], hard_weight=plan.hard_weight)
