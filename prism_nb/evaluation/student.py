"""Students: training from scratch by a protocol, its data and losses, and the evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from prism_nb.core.device import half_precision, seeded, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Student
from prism_nb.core.unit_plan import is_hard, is_plain
from prism_nb.data.augment import (
    ImageSet,
    epoch_params,
    identity_params,
    join_last_one,
    render,
)
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import DeviceImages, StreamedImages, load_images, open_train_images
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import EpochLabels, LabelStore
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.ensemble import load_labeler
from prism_nb.models.metrics import batches
from prism_nb.models.train import Trainer, new_optimizer
from prism_nb.models.zoo import build_network

Row = dict[str, float]


@dataclass(frozen=True)
class StudentData:
    """Images of a student, N of them, and their classes, int64 [N]; views and labels by epoch."""

    images: ImageSet
    classes: Tensor
    labels_of: Callable[[int], EpochLabels]


def train_student(
    name: str,
    dataset: ImageDataset,
    data: StudentData,
    config: Student,
    *,
    epochs: int,
    seed: int,
    on_epoch: Callable[[dict[str, Any]], None],
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, list[Row], EvalResult]:
    """Train a student from scratch, or from a checkpoint of the same training.

    Args:
        name: An architecture of `build_network`.
        dataset: Gives the classes, the image size and the held-out images to evaluate on.
        data: The training data.
        config: The training settings.
        epochs: Passes over the images.
        seed: Seed of the weights and of the order of images.
        on_epoch: Called after each epoch with `step`, `steps` and `losses` by name.
        checkpoint: File to save and resume the training.

    Returns:
        The student in evaluation mode; a row per evaluation, with epoch (from 1), lr, mean
        training loss, top1 and top5; and the last evaluation.
    """
    device, rows = data.classes.device, list[Row]()
    with seeded(seed, device), tf32_mode(config.precision, device):
        trainer = student_trainer(name, dataset, config, device, epochs=epochs)
        for epoch in trainer.epochs(epochs, checkpoint, rows):
            labels = data.labels_of(epoch)
            loss = train_epoch(trainer, data.images, data.classes, labels, config)
            if not math.isfinite(loss):
                raise PrismError(f"student {name} diverged in epoch {epoch + 1}; lower student_lr")
            if (epoch + 1) % config.evaluate_every == 0 or epoch + 1 == epochs:
                with tf32_mode("fp32", device):
                    result = evaluate(trainer.eval_model.eval(), dataset, device)
                scores = {"top1": result.top1, "top5": result.top5}
                lr = float(trainer.scheduler.get_last_lr()[0])
                rows.append({"epoch": epoch + 1, "lr": lr, "loss": loss, **scores})
            trainer.scheduler.step()
            on_epoch({"step": epoch + 1, "steps": epochs, "losses": {"student": loss}})
    return trainer.eval_model.eval(), rows, result


def train_epoch(
    trainer: Trainer, images: ImageSet, classes: Tensor, labels: EpochLabels, config: Student
) -> float:
    """Train a student for one epoch, in a random order, and return the mean loss."""
    trainer.network.train()
    total = torch.zeros((), device=classes.device)
    steps = join_last_one(torch.randperm(len(images)).split(config.batch))
    for rows in steps:
        rows = rows.to(classes.device)
        view = render(images, labels.params, rows)
        with half_precision(config.precision, classes.device):
            logits = trainer.network(view)
        logits = logits.float()
        if labels.logits is None:
            params = labels.params.select(rows)
            other, fraction = classes[params.mix_index.long()], params.mix_fraction(view.shape[-1])
            loss = cutmix_cross_entropy(logits, classes[rows], other, fraction)
        elif config.loss == "kl":
            soft = labels.logits[rows].float()
            loss = kd_kl_loss(logits, soft, temperature=config.temperature)
        else:
            soft = labels.logits[rows].float()
            loss = mse_gt_loss(logits, soft, classes[rows], ce_weight=config.ce_weight)
        trainer.step(loss)
        total += loss.detach()
    return total.item() / len(steps)


def student_trainer(
    name: str, dataset: ImageDataset, config: Student, device: torch.device, *, epochs: int
) -> Trainer:
    """Build a student, whose weights come from torch's global generators, as `train_student`."""
    network = build_network(name, classes=len(dataset.classes), image_size=dataset.image_size)
    network = network.to(device).to(memory_format=torch.channels_last)
    optimizer = new_optimizer(
        network,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        decay_vectors=False,
    )
    scheduler = LambdaLR(optimizer, lambda e: learning_rate_factor(config.schedule, e, epochs))
    return Trainer(network, optimizer, scheduler, ema=config.ema)


def load_student_data(run: Run, method: str, variant: str, device: torch.device) -> StudentData:
    """Return a method's images, or all real training images under `REFERENCE`, with their labels.

    The variant, one of `EVAL_VARIANTS`, decides views and labels.
    """
    dataset = open_dataset(run.settings)
    images: DeviceImages | StreamedImages
    if method == REFERENCE:
        images = open_train_images(dataset, device)
        classes = torch.from_numpy(dataset.labels("train"))
    else:
        pixels, classes = load_images(run, method, dataset)
        images = DeviceImages(pixels.to(device, memory_format=torch.channels_last), dataset)
    return StudentData(images, classes.to(device), _epoch_labels(run, method, variant, images))


def _epoch_labels(
    run: Run, method: str, variant: str, images: DeviceImages | StreamedImages
) -> Callable[[int], EpochLabels]:
    settings, no_aug = run.settings, is_plain(variant)
    hard = is_hard(settings, variant)
    stored = settings.labels == "stored" and not (hard or no_aug)
    store = LabelStore(run, method) if stored else None
    labeler = None if hard or stored else load_labeler(run)

    def labels_of(epoch: int) -> EpochLabels:
        if settings.student.cycle_labels:
            epoch %= settings.label.epochs
        if store:
            return store.load(epoch, images.device)
        if no_aug:
            params = identity_params(len(images), images.size, images.device)
        else:
            params = epoch_params(settings, len(images), epoch, images.device)
        return EpochLabels(params, labeler(images, params) if labeler else None)

    if no_aug:
        same = labels_of(0)
        return lambda epoch: same
    return labels_of


def learning_rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Return the factor of the initial learning rate in epoch 0 ... epochs - 1.

    `cosine_then_linear` is PRISM's: a slow cosine for five sixths of the epochs, down to
    0.75; then a drop to a sixth of that and a line to zero. `cosine` goes to zero (SRe2L, CDA,
    EDC, G-VBSM), `cosine_eta2` to one half (RDED); `step` is a tenth in the second half, from one
    epoch behind its first on (DC), and `constant` stays at one.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine_then_linear" and epoch > 5 * epochs / 6:
        return 0.75 * (1 - epoch / epochs)
    if schedule == "step":
        return 1.0 if epoch <= epochs // 2 + 1 else 0.1
    half_wave = {"cosine_then_linear": 2.5, "cosine": 1.0, "cosine_eta2": 2.0}[schedule] * epochs
    return 0.5 * (1 + math.cos(math.pi * epoch / half_wave))


def mse_gt_loss(logits: Tensor, soft: Tensor, classes: Tensor, *, ce_weight: float) -> Tensor:
    """Return MSE(logits, soft labels) + ce_weight * CE(logits, true classes).

    PRISM and G-VBSM with a weight of 0.1, EDC with 0.025 (their published codes). Logits and soft
    labels are of the same views [n, C]; classes, of the images before mixing [n].
    """
    hard = functional.cross_entropy(logits, classes)
    return functional.mse_loss(logits, soft) + ce_weight * hard


def kd_kl_loss(logits: Tensor, soft: Tensor, *, temperature: float) -> Tensor:
    """Return KL(softmax(soft / T) || softmax(logits / T)), the mean over the batch.

    Logits are [n, C]. Without the factor T^2 of Hinton et al. (2015), as in SRe2L and its
    descendants, whose T is 20.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(soft / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def cutmix_cross_entropy(logits: Tensor, own: Tensor, other: Tensor, fraction: Tensor) -> Tensor:
    """Return the cross-entropy with the true classes, mixed as the views are (Yun et al. 2019).

    `own` and `other` are the classes of each image and of the one mixed in, `fraction` what the
    latter covers, [n] each.
    """
    first, second = (functional.cross_entropy(logits, c, reduction="none") for c in (own, other))
    return torch.lerp(first, second, fraction.to(first.dtype)).mean()


@dataclass(frozen=True)
class EvalResult:
    """Scores of a student on the held-out real images; shares in [0, 1]."""

    loss: float  # mean cross-entropy with the true classes, nats
    top1: float  # share of images whose class is predicted
    top5: float  # share of images whose class is among the five largest logits; 1 for fewer classes
    per_class: list[float | None]  # `top1` of each class, in order; None for a class without images
    # (class, predicted class, number of images) of every pair that occurs, in order
    confusions: list[list[int]]


@torch.no_grad()
def evaluate(student: nn.Module, dataset: ImageDataset, device: torch.device) -> EvalResult:
    """Evaluate a student, in evaluation mode, on the dataset's held-out split."""
    count = len(dataset.classes)
    top5_hits, pairs = torch.zeros((), dtype=torch.int64, device=device), []
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for images, labels in batches(dataset, "val", device):
        logits = student(images)
        loss += functional.cross_entropy(logits.double(), labels, reduction="sum")
        top5 = logits.topk(min(5, count), dim=1).indices
        top5_hits += (top5 == labels[:, None]).any(1).sum()
        pairs.append(labels * count + top5[:, 0])  # one number per pair of classes
    pair, images_of = torch.cat(pairs).unique(return_counts=True)
    confusions = torch.stack([pair // count, pair % count, images_of], dim=1).tolist()
    total, hits = Counter[int](), Counter[int]()
    for label, predicted, number in confusions:
        total[label] += number
        hits[label] += number * (label == predicted)
    return EvalResult(
        loss=float(loss) / total.total(),
        top1=hits.total() / total.total(),
        top5=int(top5_hits) / total.total(),
        per_class=[hits[c] / total[c] if total[c] else None for c in range(count)],
        confusions=confusions,
    )
