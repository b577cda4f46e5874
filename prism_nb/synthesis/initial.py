"""Initial images: noise, or real training images chosen in one way or another."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.data.subset import random_real
from prism_nb.plans.batches import Batch
from prism_nb.recipes import Recipe
from prism_nb.synthesis.scoring import easiest_crops, median_difficulty, tile
from prism_nb.teachers.teacher import Teacher


def initial_images(
    recipe: Recipe,
    batch: Batch,
    dataset: ImageDataset,
    *,
    scorer: Teacher | None = None,
    seed: int,
    generator: torch.Generator,
) -> Tensor:
    """Return what a unit starts from, canonical [N, 3, S, S] on the CPU.

    Slot k of a class is, by `recipe.init`:
        noise: standard normal.
        real: its k-th training image in file order (published PRISM).
        real_random: the k-th of a shuffle of the class.
        real_median: the k-th nearest to the class's median difficulty (DELT).
        patches: made of the k-th easiest crops of its images (RDED).

    Args:
        recipe: The method.
        batch: The unit's images.
        dataset: The real images.
        scorer: Judges how hard a real image is, where the recipe asks for it.
        seed: The replicate's; it decides what is random, whatever the batches are.
        generator: The unit's generator; it decides `noise`.
    """
    members = batch.members()
    if recipe.init == "noise":
        size = dataset.image_size
        return torch.randn(len(members), 3, size, size, generator=generator)
    if recipe.init == "real_random":
        return dataset.canonical(random_real(dataset, members, seed=seed, tag="initial"))
    if recipe.init == "real":
        places = [int(dataset.of_class("train", c)[slot]) for c, slot in members]
        return dataset.canonical(dataset.images("train", places))
    if scorer is None:
        raise ValueError(f"init {recipe.init!r} needs a network that judges the real images")
    return _scored(recipe, members, dataset, scorer, seed)


def _scored(
    recipe: Recipe,
    members: list[tuple[int, int]],
    dataset: ImageDataset,
    scorer: Teacher,
    seed: int,
) -> Tensor:
    classes = dict.fromkeys(c for c, _ in members)
    if recipe.init == "real_median":
        order = {c: median_difficulty(dataset, scorer, c, recipe.score_most, seed) for c in classes}
        return dataset.canonical(dataset.images("train", [order[c][slot] for c, slot in members]))
    grid = recipe.grid(dataset.image_size)
    crops = {
        c: easiest_crops(
            dataset,
            scorer,
            c,
            most=recipe.score_most,
            tries=recipe.patch_crops,
            crop_min=recipe.crop_min,
            side=dataset.image_size // grid,
            seed=seed,
        )
        for c in classes
    }
    return torch.stack(
        [
            tile(dataset, crops[c][slot * grid**2 : (slot + 1) * grid**2], grid)
            for c, slot in members
        ]
    )
