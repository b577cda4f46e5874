"""Training of one student, by whatever protocol, from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prism_nb.core.device import half_precision, seeded, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings, Student
from prism_nb.core.unit_plan import is_hard, is_plain
from prism_nb.data.augment import (
    BatchAugParams,
    ImageSet,
    epoch_params,
    identity_params,
    render,
    render_batches,
)
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import DeviceImages, StreamedImages, load_images, open_train_images
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import EpochLabels, LabelStore
from prism_nb.models.checkpoint import Checkpoint, TrainerState
from prism_nb.models.ensemble import EnsembleLabeler, load_labeler
from prism_nb.models.metrics import batches
from prism_nb.models.zoo import build_network

Row = dict[str, float]


class StudentTrainer:
    """A student, its optimizer, and its averaged copy where there is one.

    Args:
        name: An architecture of `build_network`; weights come from torch's global generators.
        dataset: Whose classes and image size it is for.
        plan: How it will be trained.
        device: Where.
    """

    def __init__(
        self, name: str, dataset: ImageDataset, plan: Student, device: torch.device
    ) -> None:
        network = build_network(name, classes=len(dataset.classes), image_size=dataset.image_size)
        self.student = network.to(device).to(memory_format=torch.channels_last)
        self.optimizer = new_optimizer(
            self.student, plan.optimizer, lr=plan.lr, weight_decay=plan.weight_decay
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
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.student)

    def training(self, device: torch.device) -> TrainerState:
        """Return all that decides how the training goes on."""
        networks: dict[str, nn.Module] = {"student": self.student}
        if self._average is not None:
            networks["average"] = self._average
        return TrainerState(networks, self.optimizer, device)


def train_student(
    name: str,
    dataset: ImageDataset,
    material: StudentData,
    plan: Student,
    on_epoch: Callable[[dict[str, Any]], None],
    checkpoint: Checkpoint | None = None,
    *,
    epochs: int,
    seed: int,
) -> tuple[nn.Module, list[Row], EvalResult]:
    """Train a student from scratch, or from where a checkpoint of this training stands.

    Args:
        name: An architecture of `build_network`.
        dataset: The real images to be evaluated on (its held-out split).
        material: What it is taught from.
        plan: How to train.
        on_epoch: Told of each epoch.
        checkpoint: Where the training goes on after an interruption; None: nowhere.
        epochs: Passes over the images.
        seed: Seed of the weights and of the order of images.

    Returns:
        The student in evaluation mode; one row per evaluation: epoch (1-based), lr, mean training
        loss, top1 and top5 on the held-out real images in [0, 1]; and the last verdict.

    Raises:
        PrismError: The loss is no longer finite.
    """
    device = material.classes.device
    with seeded(seed, device), tf32_mode(plan.precision, device):
        pupil = StudentTrainer(name, dataset, plan, device)
        training, rows = pupil.training(device), list[Row]()
        found = checkpoint.restore(training) if checkpoint else None
        begun, rows = (found["epoch"], found["rows"]) if found else (0, rows)
        for epoch in range(begun, epochs):
            row, verdict = _teach(pupil, name, dataset, material, plan, epoch, epochs)
            on_epoch({"step": epoch + 1, "steps": epochs, "losses": {"student": row["loss"]}})
            if verdict is not None:
                rows.append(row | {"top1": verdict.top1, "top5": verdict.top5})
            if checkpoint and epoch + 1 < epochs:
                checkpoint.maybe_save(training, {"epoch": epoch + 1, "rows": rows})
    assert verdict is not None  # noqa: S101 (the last epoch is always evaluated)
    return pupil.judged.eval(), rows, verdict


def _teach(
    pupil: StudentTrainer,
    name: str,
    dataset: ImageDataset,
    material: StudentData,
    plan: Student,
    epoch: int,
    epochs: int,
) -> tuple[Row, EvalResult | None]:
    """Train for one epoch, and judge the student if it is time to."""
    lr = plan.lr * learning_rate_factor(plan.schedule, epoch, epochs)
    for group in pupil.optimizer.param_groups:
        group["lr"] = lr
    loss = train_epoch(pupil, material.images, material.classes, material.labels_of(epoch), plan)
    if not math.isfinite(loss):
        raise PrismError(f"student {name} diverged in epoch {epoch + 1}; lower student_lr")
    row = {"epoch": epoch + 1, "lr": lr, "loss": loss}
    if (epoch + 1) % plan.evaluate_every and epoch + 1 < epochs:
        return row, None
    device = material.classes.device
    with tf32_mode("fp32", device):
        return row, evaluate(pupil.judged.eval(), dataset, device)


def train_epoch(
    pupil: StudentTrainer,
    images: ImageSet,
    classes: Tensor,
    labels: EpochLabels,
    plan: Student,
) -> float:
    """Train a student for one epoch, in a fresh order, and return the mean loss."""
    pupil.student.train()
    total = torch.zeros((), device=classes.device)
    steps = render_batches(torch.randperm(len(images)), plan.batch)
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
    logits: Tensor,
    labels: EpochLabels,
    rows: Tensor,
    classes: Tensor,
    plan: Student,
    size: int,
) -> Tensor:
    if labels.logits is None:
        views = labels.views.select(rows)
        other = classes[views.mix_index.long()]
        return cutmix_cross_entropy(logits, classes[rows], other, views.mix_fraction(size))
    soft = labels.logits[rows].float()
    if plan.loss == "kl":
        return kd_kl_loss(logits, soft, temperature=plan.temperature)
    return mse_gt_loss(logits, soft, classes[rows], ce_weight=plan.ce_weight)


@dataclass(frozen=True)
class StudentData:
    """What a student is taught from.

    Attributes:
        images: Images, N of them, on the device to train on.
        classes: Their classes, int64 [N], there too.
        labels_of: Returns the views and labels of an epoch, there too.
    """

    images: ImageSet
    classes: Tensor
    labels_of: Callable[[int], EpochLabels]


def load_student_data(run: Run, method: str, variant: str, device: torch.device) -> StudentData:
    """Return a method's images, or all real ones under `REFERENCE`, and the labels to learn from.

    Args:
        run: The run.
        method: The method, or `REFERENCE`.
        variant: One of `settings.TREATMENTS`.
        device: Where to.
    """
    dataset = open_dataset(run.settings)
    images: DeviceImages | StreamedImages
    if method == REFERENCE:
        images, classes = (
            open_train_images(dataset, device),
            torch.from_numpy(dataset.labels("train")),
        )
    else:
        pixels, classes = load_images(run, method, dataset)
        images = DeviceImages(pixels.to(device, memory_format=torch.channels_last), dataset)
    return StudentData(images, classes.to(device), _labels(run, method, variant, images))


def _labels(
    run: Run, method: str, variant: str, images: DeviceImages | StreamedImages
) -> Callable[[int], EpochLabels]:
    """Return where an epoch's views and labels come from."""
    settings, plain = run.settings, is_plain(variant)
    views_of = partial(_views, settings, images, plain=plain)
    if is_hard(settings, variant):
        return lambda epoch: EpochLabels(views_of(epoch), None)
    if plain:
        views = views_of(0)
        same = EpochLabels(views, load_labeler(run)(images, views))
        return lambda epoch: same
    if settings.labels == "online":
        return _spoken(load_labeler(run), images, views_of)
    store, count = LabelStore(run, method), len(images)
    return lambda epoch: store.load(_kept(settings, epoch), images.device, count=count)


def _spoken(
    labeler: EnsembleLabeler,
    images: DeviceImages | StreamedImages,
    views_of: Callable[[int], BatchAugParams],
) -> Callable[[int], EpochLabels]:
    """Have teachers label an epoch when it is asked for."""

    def labels_of(epoch: int) -> EpochLabels:
        views = views_of(epoch)
        return EpochLabels(views, labeler(images, views))

    return labels_of


def _views(
    settings: Settings, images: DeviceImages | StreamedImages, epoch: int, *, plain: bool
) -> BatchAugParams:
    if plain:
        return identity_params(len(images), images.size, images.device)
    return epoch_params(settings, len(images), _kept(settings, epoch), images.device)


def _kept(settings: Settings, epoch: int) -> int:
    """Return the epoch whose views are shown: one that came before, where they are used again."""
    return epoch % settings.label.epochs if settings.student.cycle_labels else epoch


_MOMENTUM = 0.9


def learning_rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Return the factor of the initial step size in an epoch.

    `cosine_then_linear` is PRISM's: a slow cosine for five sixths of the epochs, down to
    0.75; then a drop to a sixth of that and a line to zero. `cosine` goes to zero (SRe2L, CDA,
    EDC, G-VBSM), `cosine_eta2` to one half of it (RDED), `constant` nowhere.

    Args:
        schedule: One of these.
        epoch: The epoch, 0 ... epochs - 1.
        epochs: Number of epochs, E.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine_then_linear" and epoch > 5 * epochs / 6:
        return 0.75 * (1 - epoch / epochs)
    half_wave = {"cosine_then_linear": 2.5, "cosine": 1.0, "cosine_eta2": 2.0}[schedule] * epochs
    return 0.5 * (1 + math.cos(math.pi * epoch / half_wave))


def mse_gt_loss(logits: Tensor, soft: Tensor, classes: Tensor, *, ce_weight: float) -> Tensor:
    """Return MSE(logits, soft labels) + ce_weight * CE(logits, true classes).

    PRISM and G-VBSM with a weight of 0.1, EDC with 0.025 (their published codes).

    Args:
        logits: The student's, [n, C].
        soft: The ensemble's logits for the same views, [n, C].
        classes: Class of each un-mixed image, [n].
        ce_weight: At least 0.
    """
    hard = functional.cross_entropy(logits, classes)
    return functional.mse_loss(logits, soft) + ce_weight * hard


def kd_kl_loss(logits: Tensor, soft: Tensor, *, temperature: float) -> Tensor:
    """Return KL(softmax(soft / T) || softmax(logits / T)), the mean over the batch.

    Without the factor T^2 of Hinton et al. (2015), as in SRe2L and its descendants.

    Args:
        logits: The student's, [n, C].
        soft: The ensemble's logits for the same views, [n, C].
        temperature: T; 20 in the published code.
    """
    mine = functional.log_softmax(logits / temperature, dim=1)
    theirs = functional.log_softmax(soft / temperature, dim=1)
    return functional.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def cutmix_cross_entropy(logits: Tensor, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return the cross-entropy with the true classes, mixed as the views are (Yun et al. 2019).

    Args:
        logits: The student's, [n, C].
        own: Class of each image, [n].
        other: Class of its partner, [n].
        share: How much of the view is the partner's, [n] in [0, 1].
    """
    mine, theirs = (functional.cross_entropy(logits, c, reduction="none") for c in (own, other))
    return torch.lerp(mine, theirs, share.to(mine.dtype)).mean()


def new_optimizer(
    network: nn.Module, kind: str, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW (`adamw`) or SGD with Nesterov momentum (`sgd`) over a network's parameters."""
    groups = parameter_groups(network, weight_decay=weight_decay)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=_MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def parameter_groups(network: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Return parameters in two groups: matrices and kernels decay, vectors and scalars do not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


_MOST = 5  # guesses that the second score allows


@dataclass(frozen=True)
class EvalResult:
    """What a student makes of the held-out real images; shares are in [0, 1].

    Attributes:
        top1: Share whose class is the student's first guess.
        top5: Share whose class is among its first five; of fewer classes, all are.
        per_class: `top1` of each class, in order; None of a class without images.
        guesses: (class, first guess, number of images) of every pair that occurs, in order.
    """

    top1: float
    top5: float
    per_class: tuple[float | None, ...]
    guesses: tuple[tuple[int, int, int], ...]


@torch.no_grad()
def evaluate(student: nn.Module, dataset: ImageDataset, device: torch.device) -> EvalResult:
    """Judge a student, in evaluation mode, by the dataset's held-out split."""
    count = len(dataset.classes)
    among, pairs = torch.zeros((), dtype=torch.int64, device=device), []
    for images, labels in batches(dataset, "val", device):
        guesses = student(images).topk(min(_MOST, count), dim=1).indices
        among += (guesses == labels[:, None]).any(1).sum()
        pairs.append(labels * count + guesses[:, 0])  # one number per pair of classes
    kinds, numbers = torch.cat(pairs).unique(return_counts=True)
    found = torch.stack([kinds // count, kinds % count, numbers], dim=1).tolist()
    seen, right = [0] * count, [0] * count
    for true, guess, number in found:
        seen[true] += number
        right[true] += number * (true == guess)
    return EvalResult(
        top1=sum(right) / sum(seen),
        top5=int(among) / sum(seen),
        per_class=tuple(r / s if s else None for r, s in zip(right, seen, strict=True)),
        guesses=tuple((true, guess, number) for true, guess, number in found),
    )
