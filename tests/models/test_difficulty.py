"""Difficulty groups and their statistics against literal float64 loops over images and layers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.data.dataset import Split
from prism_nb.data.small import Digits
from prism_nb.models import difficulty as module
from prism_nb.models.difficulty import (
    class_statistics,
    difficulty,
    difficulty_groups,
    group_targets,
)
from prism_nb.models.teacher import Teacher
from tests.helpers.teachers import layer_inputs, teacher_of


class FewDigits(Digits):
    """About four training digits of each class."""

    def labels(self, split: Split) -> np.ndarray:
        return super().labels(split)[:40]


def inputs_of(teacher: Teacher, images: Tensor) -> list[tuple[nn.Module, Tensor]]:
    layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
    return list(zip(layers, layer_inputs(teacher.network, layers, images)[1], strict=True))


def literal_gps(teacher: Teacher, image: Tensor) -> float:
    """Return the score of one image [3, S, S] channel by channel."""
    total, layers = 0.0, inputs_of(teacher, image[None])
    for layer, values in layers:
        mean_apart = var_apart = 0.0
        for c, channel in enumerate(values[0]):
            mean, var = channel.mean().item(), channel.var(correction=0).item()
            mean_apart += (mean - layer.running_mean[c].item()) ** 2
            var_apart += math.log((var + 1e-6) / (layer.running_var[c].item() + 1e-6)) ** 2
        total += (mean_apart**0.5 + var_apart**0.5) / values.shape[1] ** 0.5
    return total / len(layers)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_scores_equal_the_formula(name: str) -> None:
    teacher = teacher_of(name, double=True)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator)
    expected = [literal_gps(teacher, image) for image in images]
    with torch.no_grad():
        assert difficulty(teacher, images).tolist() == pytest.approx(expected, rel=1e-9)


def test_groups_have_the_running_statistics_that_their_images_give_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = 3
    monkeypatch.setattr(module, "_BATCH", 7)
    dataset = FewDigits(16)
    teachers = [teacher_of(name, size=16) for name in ("test_resnet", "test_byobnet")]
    found = difficulty_groups(teachers, dataset, groups, torch.device("cpu"))
    exact = [copy.deepcopy(teacher).double() for teacher in teachers]
    images = dataset.normalize(dataset.images("train", range(40))).double()
    scores = [sum(literal_gps(teacher, image) for teacher in exact) for image in images]
    members: list[list[int]] = [[] for _ in range(groups)]
    for c in range(10):
        ranked = sorted(np.flatnonzero(dataset.labels("train") == c), key=lambda i: scores[i])
        for g, part in enumerate(np.array_split(ranked, groups)):
            assert found["images"][c, g] == part[len(part) // 2]
            members[g] += part.tolist()
    expect_statistics(found, members, teachers, exact, images)


def test_classes_have_the_running_statistics_that_their_images_give_once() -> None:
    dataset = FewDigits(16)
    teachers = [teacher_of(name, size=16) for name in ("test_resnet", "test_byobnet")]
    found = class_statistics(teachers, dataset, torch.device("cpu"))
    exact = [copy.deepcopy(teacher).double() for teacher in teachers]
    images = dataset.normalize(dataset.images("train", range(40))).double()
    members = [np.flatnonzero(dataset.labels("train") == c).tolist() for c in range(10)]
    expect_statistics(found, members, teachers, exact, images)


def expect_statistics(
    found: dict[str, Tensor],
    groups: list[list[int]],
    teachers: list[Teacher],
    exact: list[Teacher],
    images: Tensor,
) -> None:
    """Compare statistics with those of batch norm in training, in float64."""
    for teacher, double in zip(teachers, exact, strict=True):
        for g, own in enumerate(groups):
            targets = group_targets(found, teacher, g)
            for (_, values), target in zip(inputs_of(double, images[own]), targets, strict=True):
                mean, var = torch.zeros(2, values.shape[1], dtype=torch.float64)
                functional.batch_norm(values, mean, var, training=True, momentum=1.0)
                biased = var - var / values[:, 0].numel()
                torch.testing.assert_close(target.mean.double(), mean, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(target.var.double(), biased, rtol=1e-4, atol=1e-5)
