"""Phases of the optimization against a literal loop over images, and what they leave alone."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.data.augment import augment, sample_augmentation
from prism_nb.execution.preflight import preflight
from prism_nb.synthesis.loop import recover
from prism_nb.synthesis.phases import Phases, Residual
from tests.helpers.objectives import (
    BOUND,
    NAMES,
    initial_of,
    literal_objective,
    optimizer_of,
    prism,
)
from tests.helpers.teachers import teacher_of

VIT = "vit_tiny_patch16_224"  # takes images of one size
FADRM = {"sizes": [0.75, 1, 0.75, 1], "residual_alpha": 0.5}


def mirrored(images: Tensor) -> Tensor:
    """Return what depends on the images at the time, in full size."""
    return functional.interpolate(images, size=(32, 32), mode="bilinear").flip(3)


def literal_fadrm(initial: Tensor, recipe: Recipe, residual: Residual | None) -> Tensor:
    """Optimize in four quarters: 24, 32, 24 and 32 pixels, half of the initial images between."""
    primary, other = (teacher_of(name, double=True) for name in NAMES)
    generator = torch.Generator().manual_seed(0)
    images, quarter, step = initial, recipe.iterations // 4, 0
    for phase, size in enumerate((24, 32, 24, 32)):
        resized = functional.interpolate(images, size=(size, size), mode="bilinear")
        rest = residual(images) if residual else initial
        small = functional.interpolate(rest, size=(size, size), mode="bilinear")
        images = resized if phase == 0 else 0.5 * resized + 0.5 * small
        first, second = torch.zeros_like(images), torch.zeros_like(images)
        for age in range(1, quarter + 1):
            batch = images.detach().requires_grad_()
            view = sample_augmentation(size, crop_min=0.3, flip=True, jitter=4, generator=generator)
            value = literal_objective(augment(batch, [view]), primary, [primary, other], 0.3)
            (gradient,) = torch.autograd.grad(value, batch)
            lr = recipe.lr * (1 + math.cos(math.pi * step / recipe.iterations)) / 2
            first = 0.5 * first + 0.5 * gradient
            second = 0.9 * second + 0.1 * gradient**2
            root = (second / (1 - 0.9**age)).sqrt() + 1e-8
            images = (batch.detach() - lr * first / (1 - 0.5**age) / root).clamp(-BOUND, BOUND)
            step += 1
    return images


@pytest.mark.parametrize(("part", "residual"), [(0, None), (3, None), (0, mirrored)])
def test_phases_resize_and_mix_as_fadrm_does(part: int, residual: Residual | None) -> None:
    recipe = prism(iterations=8, crop_min=0.3, flip=True, jitter=4, **FADRM)
    sides: list[int] = []
    optimizer = optimizer_of(recipe, initial_of(), part=part, residual=residual)
    images = recover(optimizer, [lambda found, _: sides.append(found.images.shape[-1])])
    assert torch.allclose(images, literal_fadrm(initial_of(), recipe, residual), atol=1e-8)
    # After a step the images are those of the next step.
    assert sides == [24, 32, 32, 24, 24, 32, 32, 32]


def test_phases_that_change_nothing_leave_every_bit() -> None:
    recipe = prism(iterations=6, jitter=4)
    plain = recover(optimizer_of(recipe, initial_of()))
    phased = prism(iterations=6, jitter=4, sizes=[1, 1, 1], residual_alpha=1.0)
    assert torch.equal(recover(optimizer_of(phased, initial_of())), plain)


def test_an_interrupted_phase_continues_to_the_same_images() -> None:
    recipe = prism(iterations=8, crop_min=0.3, jitter=4, **FADRM)
    expected = recover(optimizer_of(recipe, initial_of()))
    for stop in range(1, 8):
        begun = optimizer_of(recipe, initial_of())
        for _ in range(stop):
            begun.take_step()
        file = io.BytesIO()
        torch.save(begun.state_dict(), file)
        file.seek(0)
        resumed = optimizer_of(recipe, initial_of())
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(recover(resumed), expected), stop


def test_published_phases_have_200_and_224_pixels() -> None:
    found = Phases.of(load_recipe("fadrm"), 224)
    assert found == Phases((0, 500, 1000, 1500), (200, 224, 200, 224), 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [1, 0.5]}, "the last of sizes is not 1"),
        ({"sizes": [0.5, 1], "delt_start_gap": 1}, "delt_start_gap does not go with several"),
        (
            {"sizes": [1, 1, 1], "residual_alpha": 0.5, "iterations": 2},
            "more phases than image index 0 steps",
        ),
        (
            {"sizes": [0.5, 1], "logits": "round_robin"},
            "prism, sizes: .* cannot take 16-pixel.*, or set sizes to .1, 1.",
        ),
        ({"sizes": [0, 1]}, "greater than 0"),
        ({"sizes": [0.01, 1]}, "sizes has 0.01, which is less than a pixel of 32"),
        (
            {**FADRM, "residual_source": "retrieved"},
            "chooses among patches; set init to patches",
        ),
    ],
)
def test_wrong_phases_are_refused(changes: dict[str, Any], message: str) -> None:
    own = {"teachers": ["test_resnet", VIT], "logits_only": [VIT], "ipc": 2}
    recipe = {"iterations": 8, **changes}
    with pytest.raises(UsageError, match=message):
        preflight(load_settings("digits_quick", {**own, "methods": ["prism"], "recipe": recipe}))
