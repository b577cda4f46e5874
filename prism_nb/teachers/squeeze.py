"""Squeeze: train one network on the real data with a standard one-cycle recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.data import ImageDataset
from prism_nb.device import seeded
from prism_nb.errors import PrismError
from prism_nb.teachers.networks import build_network
from prism_nb.teachers.statistics import Probe, Statistics
from prism_nb.teachers.teacher import Teacher

OnStep = Callable[[dict[str, Any]], None]
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class SqueezePlan:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch: Images per step; the last, smaller batch of an epoch is left out.
        lr: Peak step size of AdamW under one cycle (Smith and Topin 2018).
        shift: Largest random shift of a batch per axis, in pixels.
        seed: Seed of the weights, the order, the shifts and any dropout.
    """

    epochs: int
    batch: int
    lr: float
    shift: int
    seed: int


def train_network(
    name: str, dataset: ImageDataset, plan: SqueezePlan, device: torch.device, on_step: OnStep
) -> nn.Module:
    """Train a network from scratch on a dataset's training images.

    Torch's global generators are used inside and restored afterwards, because weights and
    dropout draw from them.

    Args:
        name: An architecture of `build_network`.
        dataset: The real images; all of them are held in memory.
        plan: How to train.
        device: Where to train.
        on_step: Told of progress, about fifty times.

    Returns:
        The trained network, in evaluation mode, on `device`.
    """
    with seeded(plan.seed, device):
        network = build_network(
            name, classes=len(dataset.classes), image_size=dataset.image_size
        ).to(device)
        network.to(memory_format=torch.channels_last)
        labels = torch.from_numpy(dataset.labels("train")).to(device)
        pixels = dataset.images("train", range(len(labels)))
        images = dataset.canonical(pixels.to(device, memory_format=torch.channels_last))
        optimise(network, images, labels, plan, on_step)
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
        plan: How the network was trained; batch, shifts and seed are used.
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
            _, seen = teacher.observe(_shift(images, plan.shift), probes)
            for probe, measured in zip(probes, seen, strict=True):
                total = sums.setdefault(probe.name, [torch.zeros_like(m) for m in measured])
                for part, value in zip(total, measured, strict=True):
                    part += value / len(batches)
    return {name: Statistics(*parts) for name, parts in sums.items()}


def optimise(
    network: nn.Module, images: Tensor, labels: Tensor, plan: SqueezePlan, on_step: OnStep
) -> None:
    """Train a network in place, as `train_network` does with a new one."""
    batch = min(plan.batch, len(images))
    per_epoch = len(images) // batch
    total = per_epoch * plan.epochs
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=plan.lr, weight_decay=_WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.lr, total_steps=total)
    network.train()
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(images)).to(images.device)
        chosen = order[(step % per_epoch) * batch :][:batch]
        loss = functional.cross_entropy(network(_shift(images[chosen], plan.shift)), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, total // 50) == 0 or step == total - 1:
            value = loss.item()
            if not math.isfinite(value):
                raise PrismError(f"training diverged at step {step + 1}; lower squeeze_lr")
            on_step({"step": step + 1, "steps": total, "losses": {"train": value}})


def _shift(images: Tensor, most: int) -> Tensor:
    """Move a batch by up to `most` pixels per axis, repeating the border."""
    if not most:
        return images
    size = images.shape[-1]
    top, left = torch.randint(0, 2 * most + 1, (2,)).tolist()
    padded = functional.pad(images, (most,) * 4, mode="replicate")
    return padded[:, :, top : top + size, left : left + size]
