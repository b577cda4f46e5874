"""Accuracy of a classifier on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from prism_nb.data.dataset import ImageDataset, Split

_BATCH = 256


def batches(
    dataset: ImageDataset, split: Split, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield canonical images [n, 3, S, S] and labels [n] of a split, in order, on a device.

    Who goes over a whole split does so again: what lies in files is decoded once and kept.
    """
    dataset.cache(split)
    labels = torch.from_numpy(dataset.labels(split))
    for start in range(0, len(labels), _BATCH):
        stop = min(start + _BATCH, len(labels))
        images = dataset.images(split, range(start, stop)).to(device)
        yield dataset.normalize(images), labels[start:stop].to(device)


def accuracy(
    classifier: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    split: Split,
    device: torch.device,
) -> float:
    """Return the share of a split's images whose top-1 class is right, in [0, 1].

    Args:
        classifier: Turns canonical images into logits, in evaluation mode.
        dataset: The real images.
        split: Which of them.
        device: Where the classifier lives.
    """
    return accuracy_score(predict(classifier, dataset, split, device), dataset.labels(split))


@torch.no_grad()
def predict(
    classifier: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    split: Split,
    device: torch.device,
) -> np.ndarray:
    """Return the top-1 class of every image of a split, int64 [N]; see `accuracy`."""
    found = [classifier(images).argmax(1).cpu() for images, _ in batches(dataset, split, device)]
    return torch.cat(found).numpy()


def accuracy_score(guessed: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of guesses that are right, in [0, 1]."""
    return int((guessed == labels).sum()) / len(labels)
