"""Training of networks: the loop that squeeze and students share, and the squeeze itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prism_nb.core.device import half_precision, seeded, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.settings import Squeeze
from prism_nb.data.augment import ImageSet, TrainAugmentation
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import open_train_images, prefetch
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.forgetting import ForgettingCounter
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.models.teacher import Teacher
from prism_nb.models.zoo import build_network

OnStep = Callable[[dict[str, Any]], None]


class Trainer:
    """A network in training, with its optimizer, learning-rate schedule and averaged copy.

    The caller steps the scheduler; `ema` is the decay of the averaged copy, 0 for none.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler,
        *,
        ema: float = 0.0,
    ) -> None:
        self.network, self.optimizer, self.scheduler = network, optimizer, scheduler
        self._device = next(network.parameters()).device
        self._average: AveragedModel | None = None
        if ema:
            average = get_ema_multi_avg_fn(ema)
            self._average = AveragedModel(network, multi_avg_fn=average, use_buffers=True)

    @property
    def eval_model(self) -> nn.Module:
        """The averaged copy if there is one, else the network."""
        return self.network if self._average is None else self._average.module

    def epochs(
        self, count: int, checkpoint: Checkpoint | None, history: list[Any] | None = None
    ) -> Iterator[int]:
        """Yield the epochs that are left; save the state between two of them when it is due.

        The state includes torch's global generators, which order images and draw augmentations.
        `history` are plain values or tensors that the caller collects; they are saved and restored
        with the state.
        """
        history = [] if history is None else history
        state = checkpoint.load() if checkpoint else None
        if state is not None:
            self._load_state_dict(state["trainer"])
            history[:] = state["history"]
        for epoch in range(state["epochs"] if state else 0, count):
            yield epoch
            if checkpoint and checkpoint.due and epoch + 1 < count:
                checkpoint.save(
                    {"trainer": self._state_dict(), "history": history, "epochs": epoch + 1}
                )

    def step(self, loss: Tensor) -> None:
        """Update the parameters, and the averaged copy, by the gradient of a loss."""
        self.network.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.network)

    def _state_dict(self) -> dict[str, Any]:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state["cpu_rng"] = torch.get_rng_state()
        if self._device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self._device)
        return state

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["cpu_rng"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self._device)

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }
        return parts if self._average is None else {**parts, "average": self._average}


def new_optimizer(
    network: nn.Module, kind: str, *, lr: float, weight_decay: float, decay_vectors: bool = True
) -> torch.optim.Optimizer:
    """Return an optimizer of a network's parameters.

    `kind` is `adamw`, `sgd` with Nesterov momentum 0.9, `sgd_momentum` with the classical one, or
    `muon` as in `MuonAdamW`. Without `decay_vectors`, biases and parameters of normalisation layers
    do not decay.
    """
    decayed = [p for p in network.parameters() if decay_vectors or p.ndim > 1]
    others = [p for p in network.parameters() if not decay_vectors and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    if kind == "muon":
        return MuonAdamW(groups, lr=lr)
    if kind in {"sgd", "sgd_momentum"}:
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=kind == "sgd", fused=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


class MuonAdamW(torch.optim.Muon):
    """Muon for matrices and convolution kernels, AdamW for all other parameters.

    torch's Muon takes matrices alone. A kernel [out, in, height, width] is given to it as the
    matrix [out, in * height * width] (Jordan et al. 2024). Updates have the size of AdamW's (Liu et
    al., arXiv 2502.16982), so that one learning rate, which a scheduler sets, serves both. Groups
    are as AdamW's; Muon takes the parameters of two and four dimensions of the first.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float) -> None:
        first, *others = groups
        weights = [p for p in first["params"] if p.ndim in {2, 4}]
        rest = {**first, "params": [p for p in first["params"] if p.ndim not in {2, 4}]}
        self._adamw = torch.optim.AdamW([rest, *others], lr=lr, fused=True)
        # Copies, since memory in channels-last order has no such matrix.
        self._pairs = [(p, nn.Parameter(p.detach().flatten(1).clone())) for p in weights]
        matrices = {"params": [matrix for _, matrix in self._pairs]}
        options = {"weight_decay": first["weight_decay"], "adjust_lr_fn": "match_rms_adamw"}
        super().__init__([matrices], lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all parameters by their gradients."""
        for weight, matrix in self._pairs:
            matrix.copy_(weight.flatten(1))
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        loss = super().step(closure)
        for weight, matrix in self._pairs:
            weight.copy_(matrix.view_as(weight))
        for group in self._adamw.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self._adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {**super().state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a `state_dict`."""
        super().load_state_dict(state_dict)
        self._adamw.load_state_dict(state_dict["adamw"])


def train_network(
    name: str,
    dataset: ImageDataset,
    config: Squeeze,
    device: torch.device,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
    *,
    seed: int,
    forgetting: ForgettingCounter | None = None,
) -> nn.Module:
    """Train a network from scratch on a dataset's training images.

    Torch's global generators are used inside and restored afterwards, because initial weights,
    the order of images and dropout draw from them.

    Args:
        name: An architecture of `build_network`.
        dataset: The real images.
        config: Training settings.
        device: Device to train on.
        on_step: Called about fifty times as `on_step({"step": int, "steps": int, "losses": dict})`.
        checkpoint: File to save and resume the training; None: no checkpoints.
        seed: Seed of the initial weights, the order of images, their augmentation and dropout.
        forgetting: Counts the images that are forgotten.

    Returns:
        The trained network, in evaluation mode, channels-last, on `device`.

    Raises:
        PrismError: The loss is no longer finite.
    """
    images = open_train_images(dataset, device)
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    with seeded(seed, device), tf32_mode(config.precision, device):
        network = build_network(
            name, classes=len(dataset.classes), image_size=dataset.image_size
        ).to(device)
        network.to(memory_format=torch.channels_last)
        train_loop(network, images, labels, config, on_step, checkpoint, forgetting)
    return network.eval()


def train_loop(
    network: nn.Module,
    images: ImageSet,
    labels: Tensor,
    config: Squeeze,
    on_step: OnStep,
    checkpoint: Checkpoint | None = None,
    forgetting: ForgettingCounter | None = None,
) -> None:
    """Train a network in place on images and their labels [N]; otherwise as `train_network`."""
    batch, augment = min(config.batch, len(images)), _augmentation(config)
    steps_per_epoch = len(images) // batch
    steps = steps_per_epoch * config.epochs
    optimizer = new_optimizer(
        network, config.optimizer, lr=config.lr, weight_decay=config.weight_decay
    )
    scheduler: LRScheduler = (
        CosineAnnealingLR(optimizer, steps)
        if config.schedule == "cosine"
        else OneCycleLR(optimizer, config.lr, total_steps=steps)
    )
    trainer = Trainer(network, optimizer, scheduler)
    network.train()
    history = forgetting.state if forgetting else None
    for epoch in trainer.epochs(config.epochs, checkpoint, history):
        batches = torch.randperm(len(images)).split(batch)[:steps_per_epoch]
        for step, (rows, batch_images) in enumerate(
            zip(batches, prefetch(images, batches), strict=True), epoch * steps_per_epoch + 1
        ):
            views = augment(batch_images)  # in full precision
            with half_precision(config.precision, labels.device):
                logits = network(views)
            loss = classification_loss(logits, labels[rows], config)
            trainer.step(loss)
            scheduler.step()
            if forgetting:
                forgetting.update(rows, logits.argmax(1) == labels[rows])
            if (step - 1) % max(1, steps // 50) == 0 or step == steps:
                value = loss.item()
                if not math.isfinite(value):
                    raise PrismError(f"training diverged at step {step}; lower squeeze_lr")
                on_step({"step": step, "steps": steps, "losses": {"train": value}})


def classification_loss(logits: Tensor, labels: Tensor, config: Squeeze) -> Tensor:
    """Return the mean cross-entropy of a batch, with label smoothing."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)


@torch.no_grad()
def collect_conv_stats(
    teacher: Teacher,
    stats: Sequence[LayerStat],
    dataset: ImageDataset,
    config: Squeeze,
    device: torch.device,
    *,
    seed: int,
) -> dict[str, MeanVar]:
    """Measure layer statistics of the training images, in one pass augmented as in training.

    Returns:
        By the statistic's name, the mean over batches of each batch's mean and biased variance,
        as running statistics are (G-VBSM, CVPR 2024).
    """
    sums: dict[str, list[Tensor]] = {}
    count = len(dataset.labels("train"))
    batch, augment = min(config.batch, count), _augmentation(config)
    with seeded(seed, device):
        batches = torch.randperm(count).split(batch)[: count // batch]
        for rows in batches:
            images = dataset.normalize(dataset.images("train", rows.tolist()).to(device))
            _, measured = teacher.forward_with_stats(augment(images), stats)
            for stat, mean_var in zip(stats, measured, strict=True):
                total = sums.setdefault(stat.name, [torch.zeros_like(part) for part in mean_var])
                for part, value in zip(total, mean_var, strict=True):
                    part += value / len(batches)
    return {name: MeanVar(*parts) for name, parts in sums.items()}


def _augmentation(config: Squeeze) -> TrainAugmentation:
    return TrainAugmentation(
        config.max_shift, config.crop_min, config.flip, config.views == "per_image"
    )
