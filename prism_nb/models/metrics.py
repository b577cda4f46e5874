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

    The classifier is in evaluation mode, on `device`.
    """
    classes = [classifier(images).argmax(1).cpu() for images, _ in batches(dataset, split, device)]
    return torch.cat(classes).numpy()


def best_order(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[int, np.ndarray]:
    """Return the order of the outputs that fits images best, and how many images fit it.

    `predicted` is the top-1 output of each image, `labels` its class, int64 [n] each.

    Returns:
        Number of images whose output is that of their class, and the output of each class, int64
        [classes].
    """
    from scipy.optimize import linear_sum_assignment  # takes a quarter of a second to import

    images = np.zeros((classes, classes), dtype=np.int64)  # number of them, by class and output
    np.add.at(images, (labels, predicted), 1)
    of_class, output_of = linear_sum_assignment(images, maximize=True)
    return int(images[of_class, output_of].sum()), output_of
