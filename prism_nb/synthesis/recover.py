"""The recover loop: images that frozen teachers come to recognise, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prism_nb.recipes import Recipe
from prism_nb.synthesis.augment import draw_view
from prism_nb.synthesis.objective import image_priors, prism_losses, weigh
from prism_nb.synthesis.schedules import smallest_crop
from prism_nb.teachers.selection import Draws
from prism_nb.teachers.teacher import Teacher

OnStep = Callable[[int, dict[str, Tensor]], None]


def recover(
    initial: Tensor,
    labels: Tensor,
    *,
    primary: Teacher,
    teachers: Mapping[str, Teacher],
    draws: Draws,
    scales: Mapping[str, float],
    bounds: tuple[Tensor, Tensor],
    recipe: Recipe,
    generator: torch.Generator,
    on_step: OnStep,
) -> Tensor:
    """Optimise a batch of images.

    Adam with a cosine to zero over the recipe's iterations; after each step the images are
    clamped to what 8-bit pixels can show.

    Args:
        initial: Canonical images to start from, [N, 3, H, W]; left unchanged.
        labels: Class indices [N].
        primary: Gives the logits.
        teachers: The networks of the draws, by name.
        draws: Which of them give their BN statistics at each step.
        scales: Factor of each network's BN loss; 1 where none is named.
        bounds: Canonical values of black and white, each [3, 1, 1].
        recipe: Step size, iterations, weights and augmentation.
        generator: Draws the views; on the CPU, so that devices see the same ones.
        on_step: Told the number of steps done and the named losses before the last.

    Returns:
        The optimised canonical images [N, 3, H, W].
    """
    images = initial.clone().requires_grad_()
    optimiser = torch.optim.Adam([images], lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=recipe.iterations)
    for step in range(recipe.iterations):
        view = draw_view(
            images.shape[-1],
            crop_min=smallest_crop(recipe, step),
            flip=recipe.flip,
            roll=recipe.roll,
            generator=generator,
        )
        losses = prism_losses(
            view(images),
            labels,
            primary=primary,
            bn_teachers=[teachers[name] for name in draws.at(step)],
            first_layer_factor=recipe.first_layer_factor,
        )
        if recipe.tv_weight or recipe.l2_weight:
            losses |= image_priors(images)
        total = weigh(
            losses,
            bn_weight=recipe.bn_weight,
            scales=scales,
            tv_weight=recipe.tv_weight,
            l2_weight=recipe.l2_weight,
        )
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(*bounds)
        on_step(step + 1, losses)
    return images.detach()
