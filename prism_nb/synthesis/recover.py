"""The recover loop: images that frozen teachers come to recognise, one step at a time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from prism_nb.recipes import Recipe
from prism_nb.synthesis.augment import View, draw_view
from prism_nb.synthesis.gradient import Gradient
from prism_nb.synthesis.schedules import smallest_crop
from prism_nb.teachers.selection import Draws

OnStep = Callable[[int, dict[str, Tensor]], None]
Look = Callable[[int, Sequence[Tensor]], None]


def recover(
    initial: Tensor,
    labels: Tensor,
    *,
    gradient: Gradient,
    draws: Draws,
    recipe: Recipe,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
    on_step: OnStep,
    joins: Sequence[int] | None = None,
    look: Look | None = None,
) -> Tensor:
    """Optimise a batch of images.

    Adam with a cosine to zero over the recipe's iterations; after each step the images are
    clamped to what 8-bit pixels can show.

    Args:
        initial: Canonical images to start from, [N, 3, H, W]; left unchanged.
        labels: Class indices [N].
        gradient: Of what the images are optimised for.
        draws: Which networks give their statistics at each step.
        recipe: Step size, iterations and augmentation.
        bounds: Canonical values of black and white, each [3, 1, 1].
        generator: Draws the views; on the CPU, so that devices see the same ones.
        on_step: Told the number of steps done and the named losses before the last.
        joins: The step from which each image takes part, ascending; all from the first if None.
            The cosine and the draws are those of the whole schedule, whenever the first joins.
        look: Shown the images at the start and after each step, group by group, with the number of
            steps done; it leaves them as they are.

    Returns:
        The optimised canonical images [N, 3, H, W].
    """
    size = initial.shape[-1]
    begins, sizes = _groups(joins or [0] * len(initial))
    groups = [images.clone().requires_grad_() for images in initial.split(sizes)]
    optimiser = torch.optim.Adam(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))
    first, last = begins[0], recipe.iterations
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda done: (1 + math.cos(math.pi * (first + done) / last)) / 2
    )
    if look is not None:
        look(first, groups)
    for step in range(first, last):
        active = groups[: bisect_right(begins, step)]
        count = sum(map(len, active))
        losses = gradient(
            active,
            draw_views(recipe, step, (count, size), generator),
            labels[:count],
            speakers=draws.logits_at(step),
            team=draws.at(step),
        )
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for group in active:
                group.clamp_(*bounds)
        on_step(step + 1, losses)
        if look is not None:
            look(step + 1, groups)
    return torch.cat([group.detach() for group in groups])


def draw_views(
    recipe: Recipe, step: int, batch: tuple[int, int], generator: torch.Generator
) -> list[View]:
    """Draw a step's views of a batch (images, their side): one for all, or one for each."""
    count, size = batch
    crop_min = smallest_crop(recipe, step)
    return [
        draw_view(
            size,
            crop_min=crop_min,
            flip=recipe.flip,
            roll=recipe.roll,
            generator=generator,
        )
        for _ in range(count if recipe.views == "per_image" else 1)
    ]


def _groups(joins: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return at which steps groups of images join, and how many images each has."""
    found = [(begin, len(list(members))) for begin, members in groupby(joins)]
    return [begin for begin, _ in found], [size for _, size in found]
