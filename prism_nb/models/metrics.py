"""Predictions and top-1 accuracy of a classifier on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from prism_nb.data.dataset import ImageDataset, Split

_BATCH = 256

Classifier = Callable[[Tensor], Tensor]  # normalized images [n, 3, S, S] to logits [n, classes]


def batches(
    dataset: ImageDataset, split: Split, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalized images [n, 3, S, S] and labels [n] of a split, in order, on a device."""
    dataset.cache(split)
    labels = torch.from_numpy(dataset.labels(split))
    for start in range(0, len(labels), _BATCH):
        stop = min(start + _BATCH, len(labels))
        images = dataset.images(split, range(start, stop)).to(device)
        yield dataset.normalize(images), labels[start:stop].to(device)


@torch.no_grad()
def predict(
    classifier: Classifier, dataset: ImageDataset, split: Split, device: torch.device
) -> np.ndarray:
    """Return the top-1 class of every image of a split, int64 [N].

    Args:
        classifier: The classifier, in evaluation mode, on `device`.
        dataset: The real images.
        split: The split to classify.
        device: Device of the classifier.
    """
    classes = [classifier(images).argmax(1).cpu() for images, _ in batches(dataset, split, device)]
    return torch.cat(classes).numpy()


def accuracy(
    classifier: Classifier, dataset: ImageDataset, split: Split, device: torch.device
) -> float:
    """Return the top-1 accuracy on a split, in [0, 1]; arguments as of `predict`."""
    return float((predict(classifier, dataset, split, device) == dataset.labels(split)).mean())
