"""How well a student knows the held-out real images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from prism_nb.data import ImageDataset
from prism_nb.teachers.accuracy import batches

_MOST = 5  # guesses that the second score allows


@dataclass(frozen=True)
class Verdict:
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
def judge(student: nn.Module, dataset: ImageDataset, device: torch.device) -> Verdict:
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
    return Verdict(
        top1=sum(right) / sum(seen),
        top5=int(among) / sum(seen),
        per_class=tuple(r / s if s else None for r, s in zip(right, seen, strict=True)),
        guesses=tuple((true, guess, number) for true, guess, number in found),
    )
