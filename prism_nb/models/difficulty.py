"""BN statistics of groups of training images: classes, or difficulty groups (PSM, 2026).

For difficulty, images of a class are ranked by their distance from running statistics,

    GPS(x) = mean over layers of
             (||mean_x - mean_l||_2 + ||log((var_x + eps) / (var_l + eps))||_2) / sqrt(C_l),

averaged over several networks, where mean_x and var_x are those of one image. In that order they
are split into groups. The statistics of a group are those of its images of all classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import StreamedImages, prefetch
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.models.teacher import Teacher

_EPS = 1e-6
_BATCH = 256  # images per forward pass


@dataclass(frozen=True)
class _ImageStat(LayerStat):
    """The mean and variance of one layer's input in each image."""

    def measure(self, inputs: Tensor) -> MeanVar:
        """Compute them for an input [N, C, H, W], each [N, C]."""
        mean = inputs.mean((2, 3), keepdim=True)
        return MeanVar(mean.flatten(1), (inputs - mean).square().mean((2, 3)))


@torch.no_grad()
def difficulty_groups(
    teachers: Sequence[Teacher], dataset: ImageDataset, groups: int, device: torch.device
) -> dict[str, Tensor]:
    """Split the training images of each class into groups of nearly equal size; measure these.

    Scores are averaged over the teachers, which have BN layers; a class has at least as many images
    as there are groups.

    Returns:
        `images`: the training image in the middle of each group, int64 [classes, groups], the group
        nearest to the running statistics first. By network: mean and variance of each group over
        all BN layers, [groups, 2, channels].
    """
    parts = [
        torch.stack([difficulty(teacher, images).double() for teacher in teachers]).mean(0)
        for images in _read(dataset, np.arange(len(dataset.labels("train"))), device)
    ]
    scores = torch.cat(parts).numpy(force=True)
    members: list[list[np.ndarray]] = []  # by class and group
    for info in dataset.classes:
        images = dataset.class_indices("train", info.index)
        ranked = images[np.argsort(scores[images], kind="stable")]
        members.append(np.array_split(ranked, groups))
    middle = [[group[len(group) // 2] for group in own] for own in members]
    stats = [
        _group_stats(teachers, dataset, np.sort(np.concatenate(group)), device)
        for group in zip(*members, strict=True)
    ]
    return {"images": torch.from_numpy(np.array(middle)), **_by_network(stats)}


@torch.no_grad()
def class_statistics(
    teachers: Sequence[Teacher], dataset: ImageDataset, device: torch.device
) -> dict[str, Tensor]:
    """Measure the training images of each class.

    Returns:
        By network, mean and variance of each class over all BN layers, [classes, 2, channels].
    """
    members = [dataset.class_indices("train", info.index) for info in dataset.classes]
    return _by_network([_group_stats(teachers, dataset, each, device) for each in members])


def group_targets(groups: Mapping[str, Tensor], teacher: Teacher, index: int) -> list[MeanVar]:
    """Return the statistics of a group, by index, for each BN layer of a network."""
    sizes = [len(running.mean) for running in teacher.running_stats()]
    mean, var = groups[teacher.name][index]
    return [MeanVar(*pair) for pair in zip(mean.split(sizes), var.split(sizes), strict=True)]


def difficulty(teacher: Teacher, images: Tensor) -> Tensor:
    """Return the GPS of canonical images [N, 3, S, S] by one network, [N]."""
    stats = [_ImageStat(stat.name, stat.layer) for stat in teacher.bn_layer_stats]
    layers = []
    for image, real in zip(teacher.stats_only(images, stats), teacher.running_stats(), strict=True):
        ratio = ((image.var + _EPS) / (real.var + _EPS)).log()
        apart = [torch.linalg.vector_norm(x, dim=1) for x in (image.mean - real.mean, ratio)]
        layers.append((apart[0] + apart[1]) / math.sqrt(len(real.mean)))
    return torch.stack(layers).mean(0)


def _group_stats(
    teachers: Sequence[Teacher], dataset: ImageDataset, indices: np.ndarray, device: torch.device
) -> dict[str, Tensor]:
    """Return mean and variance of some images by network, [2, channels of all BN layers]."""
    moments: dict[str, Tensor] = {}  # means of x and of x^2, in float64
    for images in _read(dataset, indices, device):
        for teacher in teachers:
            layers = teacher.stats_only(images, teacher.bn_layer_stats)
            mean, var = (torch.cat(parts).double() for parts in zip(*layers, strict=True))
            part = torch.stack([mean, var + mean.square()]) * (len(images) / len(indices))
            moments[teacher.name] = moments.get(teacher.name, 0) + part
    return {
        name: torch.stack([mean, square - mean.square()]).float()
        for name, (mean, square) in moments.items()
    }


def _by_network(groups: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([group[name] for group in groups]) for name in groups[0]}


def _read(dataset: ImageDataset, indices: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    """Yield training images in batches, canonical [n, 3, S, S]."""
    return prefetch(StreamedImages(dataset, device), torch.from_numpy(indices).split(_BATCH))
