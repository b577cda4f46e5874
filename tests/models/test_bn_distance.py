"""Distance of BN statistics against its formula, and what is far among several networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.data.registry import open_dataset
from prism_nb.models.bn_distance import (
    bn_distance,
    check_stem,
    distance_limits,
    spaced_images,
)
from prism_nb.models.zoo import set_stem
from tests.helpers.teachers import layer_inputs, teacher_of


def test_it_is_its_formula_and_0_for_equal_statistics() -> None:
    teacher, images = teacher_of("test_resnet"), torch.randn(8, 3, 32, 32)
    layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
    _, inputs = layer_inputs(teacher.network, layers, images)
    expected = 0.0
    for layer, values in zip(layers, inputs, strict=True):
        channels = values.detach().double().transpose(0, 1).flatten(1)
        of_layer = 0.0
        for channel, running_mean, running_var in zip(
            channels, layer.running_mean.tolist(), layer.running_var.tolist(), strict=True
        ):
            mean, var = float(channel.mean()), float(channel.var(correction=0)) + layer.eps
            scale = running_var + layer.eps
            of_layer += (var / scale - 1 - math.log(var / scale)) / 2
            of_layer += (mean - running_mean) ** 2 / scale / 2
        expected += of_layer / len(channels) / len(layers)
    assert bn_distance(teacher, images) == pytest.approx(expected, rel=1e-4)
    assert expected > 0
    with torch.no_grad():
        for layer in layers:  # each in turn, since it changes the inputs of the next
            (measured,) = teacher.stats_only(
                images, [s for s in teacher.bn_layer_stats if s.layer is layer]
            )
            layer.running_mean.copy_(measured.mean)
            layer.running_var.copy_(measured.var)
    assert bn_distance(teacher, images) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stem", ["3x3 stride 1", "3x3 stride 2", "3x3 stride 2 pool"])
def test_the_stem_that_statistics_were_measured_with_is_found(stem: str) -> None:
    torch.manual_seed(0)
    images = nn.functional.interpolate(torch.randn(16, 3, 8, 8), size=32, mode="bilinear")
    teacher = teacher_of("shufflenet_v2_x0_5")
    set_stem(teacher.network, stem)
    for layer in teacher.network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all passes
    for _ in range(3):
        teacher.network.train()(images)
    teacher.network.eval()
    check_stem(teacher, bn_distance(teacher, images), images)
    set_stem(teacher.network, "3x3 stride 1 pool")
    with pytest.raises(PrismError, match=rf"'{stem}', which .*`build: {{stem: {stem}}}`"):
        check_stem(teacher, bn_distance(teacher, images), images)


def test_networks_without_running_statistics_have_none() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert bn_distance(teacher_of("test_convnext"), images) is None
    teacher = teacher_of("test_resnet")
    teacher.bn_layer_stats[0].layer.running_mean = None
    assert bn_distance(teacher, images) is None


@pytest.mark.parametrize(
    ("distances", "far"),
    [
        ({}, {}),
        ({"a": 0.049}, {}),
        ({"a": 0.051}, {"a": 0.05}),
        ({"a": 0.01, "b": 0.04, "c": 0.01}, {}),
        ({"a": 0.3, "b": 0.2, "c": 0.4}, {}),  # images unlike those of all
        ({"a": 0.1, "b": 0.1, "c": 0.3}, {"c": 0.25}),
        ({"a": 0.02, "b": 0.14}, {"b": 0.05}),
    ],
)
def test_a_network_is_compared_with_the_others(
    distances: dict[str, float], far: dict[str, float]
) -> None:
    assert distance_limits(distances) == pytest.approx(far)


def test_images_are_spaced_over_the_classes() -> None:
    dataset = open_dataset(load_settings("digits_quick"))
    few = spaced_images(dataset, 20)
    labels = dataset.labels("val")
    pixels = dataset.normalize(dataset.images("val", range(len(labels))))
    found = [int(labels[(pixels == image).flatten(1).all(1).nonzero()[0]]) for image in few]
    assert found == sorted(found)
    assert set(found) == set(range(10))
    assert len(spaced_images(dataset, 10_000)) == len(labels)
