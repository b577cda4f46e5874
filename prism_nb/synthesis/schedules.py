"""Schedules over the steps of a unit."""

from __future__ import annotations

import math

from prism_nb.recipes import Recipe


def smallest_crop(recipe: Recipe, step: int) -> float:
    """Return the smallest share of the area that a step's crop may have.

    The curriculum falls from 1 to `crop_min` along half a cosine over all steps:
    crop_min + (1 - crop_min) (1 + cos(pi t / T)) / 2 (CDA, section 3, with its milestone at 1).

    Args:
        recipe: The method.
        step: The step, 0 ... iterations - 1.
    """
    if recipe.crop_schedule == "fixed":
        return recipe.crop_min
    falling = (1 + math.cos(math.pi * step / recipe.iterations)) / 2
    return recipe.crop_min + (1 - recipe.crop_min) * falling
