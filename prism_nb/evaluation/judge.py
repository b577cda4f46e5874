"""How well a student knows the held-out real images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prism_nb.data import ImageDataset
from prism_nb.teachers.accuracy import batches

_MOST = 5  # guesses that the second score allows


@dataclass(frozen=True)
class Verdict:
    """Shares of the held-out real images, each in [0, 1].

    Attributes:
        top1: Whose class is the student's first guess.
        top5: Whose class is among its first five; of fewer classes, all are.
        per_class: `top1` of each class, in order; None of a class without images.
    """

    top1: float
    top5: float
    per_class: tuple[float | None, ...]


@torch.no_grad()
def judge(student: nn.Module, dataset: ImageDataset, device: torch.device) -> Verdict:
    """Judge a student, in evaluation mode, by the dataset's held-out split."""
    count = len(dataset.classes)
    seen, first, among = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(3))
    for images, labels in batches(dataset, "val", device):
        guesses = student(images).topk(min(_MOST, count), dim=1).indices
        right = guesses == labels[:, None]
        seen += _per_class(torch.ones_like(labels), labels, count)
        first += _per_class(right[:, 0], labels, count)
        among += _per_class(right.any(1), labels, count)
    total = int(seen.sum())
    pairs = zip(first.tolist(), seen.tolist(), strict=True)
    per_class = tuple(right / shown if shown else None for right, shown in pairs)
    return Verdict(int(first.sum()) / total, int(among.sum()) / total, per_class)


def _per_class(flags: Tensor, labels: Tensor, count: int) -> Tensor:
    zeros = torch.zeros(count, dtype=torch.int64, device=labels.device)
    return zeros.index_add(0, labels, flags.to(torch.int64))
