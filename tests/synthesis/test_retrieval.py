"""Retrieved patches against brute force in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import load_recipe
from prism_nb.core.units import ImageBatch
from prism_nb.data.small import Digits
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.init import class_order, initial_images
from prism_nb.synthesis.retrieval import complexity, retrieve
from tests.helpers.teachers import teacher_of

DIGITS = Digits(16)
PATCHES = 10  # of 41 crops
RECIPE = load_recipe("reta", {"max_scored_images": 41, "mosaic_grid": 2, "crop_min": 0.3})


def literal_complexity(pixels: Tensor) -> float:
    """Return the variance of the smoothed gradient magnitude of an image [3, H, W], by loops."""
    grey = (pixels.sum(0) / 3).tolist()
    last = range(len(grey) - 1)
    size = [
        [math.hypot(grey[i][j + 1] - grey[i][j], grey[i + 1][j] - grey[i][j]) for j in last]
        for i in last
    ]
    smooth = [
        sum(size[i + a][j + b] for a in range(3) for b in range(3)) / 9
        for i in last[:-2]
        for j in last[:-2]
    ]
    mean = sum(smooth) / len(smooth)
    return sum((value - mean) ** 2 for value in smooth) / len(smooth)


def test_complexity_equals_loops_over_pixels() -> None:
    pixels = torch.rand(3, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [literal_complexity(image) for image in pixels]
    assert complexity(pixels).tolist() == pytest.approx(expected, rel=1e-9)


def literal_choice(teacher: Teacher, image: Tensor, patches: Tensor) -> int:
    """Return the number of the patch of lowest cost for one image [3, s, s]."""

    def phi(x: Tensor) -> Tensor:
        features = teacher.features_and_logits(x[None])[0][0].double()
        return features / features.pow(2).sum().sqrt()

    full = functional.interpolate(image[None], size=(16, 16), mode="bilinear")[0]
    costs = [
        0.9 * float((phi(full) - phi(patch)).pow(2).sum())
        + 0.1 * literal_complexity(DIGITS.to_uint8(patch).double() / 255)
        for patch in patches
    ]
    return costs.index(min(costs))


def test_the_patch_of_an_image_is_that_of_lowest_cost() -> None:
    teacher, generator = teacher_of("test_resnet", size=16), torch.Generator().manual_seed(0)
    classes, chosen = [3, 8] * 4, set()
    images = torch.randn(len(classes), 3, 12, 12, generator=generator)
    found = retrieve(RECIPE, DIGITS, teacher, classes, 5, images)
    for c, image, patch in zip(classes, images, found, strict=True):
        batch = ImageBatch((0, PATCHES), (c, c + 1))
        order = partial(class_order, RECIPE, DIGITS, teacher, 5, PATCHES)
        patches = initial_images(RECIPE, batch, DIGITS, order, seed=5, generator=generator)
        best = literal_choice(teacher, image, patches)
        assert torch.equal(patch, patches[best])
        chosen.add((c, best))
    assert len(chosen) > 2
