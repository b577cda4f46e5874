"""Initial images of a unit: noise, or real training images chosen in one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import CORESETS, Recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.core.units import ImageBatch, Unit, unit_seed
from prism_nb.data.augment import AugParams, Box, augment, sample_crop
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import random_real
from prism_nb.data.registry import open_dataset
from prism_nb.models.forgetting import forgetting_events
from prism_nb.models.pool import load_groups, load_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.coresets import GREEDY, el2n_scores

_BATCH_SIZE = 256  # images per forward pass of the scorer
_SQUARE = (1.0, 1.0)
Crop = tuple[int, Box]  # index of a training image, and a box in it


@dataclass(frozen=True)
class UnitInit:
    """A unit before its first step.

    Attributes:
        recipe: The method, for the unit's image indices.
        seed: The unit's seed.
        generator: CPU generator seeded with it, after the draws of the initial images.
        images: Initial images, canonical [N, 3, S, S] on the CPU.
    """

    recipe: Recipe
    seed: int
    generator: torch.Generator
    images: Tensor


def prepare_unit(run: Run, unit: Unit, part: ImageBatch | None = None) -> UnitInit:
    """Return the initial state of a unit; every call gives the same.

    Args:
        run: The run.
        unit: A unit of a method that makes its images here (not imported).
        part: The images to make, a part of the unit's batch; None: all. Only noise depends on the
            other images of the batch.

    Raises:
        PrismError: The recipe ranks real images by networks that are not trained.
    """
    settings, method, batch = run.settings, unit.params["method"], batch_of(unit)
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    key = (*batch.image_indices, *batch.classes)
    seed = unit_seed(settings.replicate_seed, "synthesis", method, *key)
    generator = torch.Generator().manual_seed(seed)
    images = initial_images(
        recipe,
        part or batch,
        open_dataset(settings),
        scorer=load_teacher(run, settings.primary) if recipe.needs_scorer else None,
        coreset=_coreset(run, recipe, method),
        seed=settings.replicate_seed,
        generator=generator,
    )
    return UnitInit(recipe, seed, generator, images)


def real_tiles(run: Run, unit: Unit) -> Tensor:
    """Return the real images behind the tiles of a unit's initial images, each in full size.

    Returns:
        Canonical [N, grid * grid, 3, S, S] on the CPU, those of an image in reading order.
    """
    settings, dataset = run.settings, open_dataset(run.settings)
    recipe, scorer = settings.recipe_of(unit.params["method"]), load_teacher(run, settings.primary)
    size, members = dataset.image_size, batch_of(unit).members()
    crops = partial(class_patches, recipe, dataset, scorer, seed=settings.replicate_seed)
    return torch.stack([crop_images(dataset, crops(c)[k], size) for c, k in members])


def initial_images_uint8(run: Run, method: str, members: Sequence[tuple[int, int]]) -> Tensor:
    """Return initial images of a method, given as (class, index), as pixels, uint8 [n, 3, S, S].

    Raises:
        PrismError: As `prepare_unit`.
    """
    dataset, wanted = open_dataset(run.settings), set(members)
    found: dict[tuple[int, int], Tensor] = {}
    for unit in method_units(run, method, len(dataset.classes)):
        batch = batch_of(unit)
        own = [member for member in batch.members() if member in wanted]
        if own and run.settings.recipe_of(method).init == "noise":
            found |= dict(zip(batch.members(), prepare_unit(run, unit).images, strict=True))
            continue
        for c, index in own:
            part = ImageBatch((index, index + 1), (c, c + 1))
            found[c, index] = prepare_unit(run, unit, part).images[0]
    return dataset.to_uint8(torch.stack([found[member] for member in members]))


def initial_images(
    recipe: Recipe,
    batch: ImageBatch,
    dataset: ImageDataset,
    *,
    scorer: Teacher | None = None,
    coreset: Callable[[int], Sequence[int]] | None = None,
    seed: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the initial images of a batch, canonical [N, 3, S, S] on the CPU.

    Image k of a class is, by `recipe.init`:
        noise: standard normal.
        real: the k-th training image in file order (published PRISM), or the middle one of the k-th
            difficulty group (PSM).
        real_random: the k-th of a shuffle of the class.
        real_median: the k-th nearest to the class's median loss (DELT).
        patches: a mosaic of the k-th group of crops of lowest loss (RDED).
        mosaic: a mosaic of the k-th group of whole images of lowest loss (CIM).
        el2n, herding, k_center, forgetting: the k-th of that coreset; see `synthesis.coresets`.

    Args:
        recipe: The method.
        batch: The images.
        dataset: The real images.
        scorer: Teacher whose loss ranks real images; None where the recipe does not rank.
        coreset: A class's training images in the order of the recipe's coreset or groups; None
            without.
        seed: Seed of the replicate, for all draws but noise: they do not depend on the batches.
        generator: The unit's CPU generator, for noise.
    """
    members = batch.members()
    if recipe.init == "noise":
        size = dataset.image_size
        return torch.randn(len(members), 3, size, size, generator=generator)
    if coreset is not None:
        return dataset.normalize(dataset.images("train", [coreset(c)[k] for c, k in members]))
    if recipe.init == "real_random":
        return dataset.normalize(random_real(dataset, members, seed=seed, tag="initial"))
    if recipe.init == "real":
        indices = [int(dataset.class_indices("train", c)[k]) for c, k in members]
        return dataset.normalize(dataset.images("train", indices))
    if scorer is None:
        raise ValueError(f"init {recipe.init!r} needs a network that scores the real images")
    if recipe.init == "real_median":
        most = recipe.max_scored_images
        indices = [rank_by_median_loss(dataset, scorer, c, most, seed)[k] for c, k in members]
        return dataset.normalize(dataset.images("train", indices))
    grid = recipe.grid(dataset.image_size)
    patches = [class_patches(recipe, dataset, scorer, c, seed)[k] for c, k in members]
    return torch.stack([mosaic(dataset, crops, grid) for crops in patches])


def class_patches(
    recipe: Recipe, dataset: ImageDataset, scorer: Teacher, class_index: int, seed: int
) -> tuple[tuple[Crop, ...], ...]:
    """Return the crops of all mosaics of a class's scored images, the lowest loss first."""
    size, most = dataset.image_size, recipe.max_scored_images
    tiles, whole = recipe.grid(size) ** 2, (0, 0, size, size)
    if recipe.init == "mosaic":
        ranked = rank_by_loss(dataset, scorer, class_index, most, seed)
        crops: tuple[Crop, ...] = tuple((index, whole) for index in ranked)
    else:
        crops = lowest_loss_crops(
            dataset,
            scorer,
            class_index,
            most=most,
            tries=recipe.crops_per_image,
            crop_min=recipe.crop_min,
            side=size // recipe.grid(size),
            seed=seed,
        )
    return tuple(crops[k * tiles : (k + 1) * tiles] for k in range(len(crops) // tiles))


# Rankings score whole classes, so each is made once per process and not once per unit.


@lru_cache(maxsize=4096)
def rank_by_median_loss(
    dataset: ImageDataset, scorer: Teacher, class_index: int, most: int | None, seed: int
) -> tuple[int, ...]:
    """Return indices of a class's training images, the nearest to its median loss first (DELT).

    Distances are counted in ranks, the lower loss first on ties.

    Args:
        dataset: The real images.
        scorer: Teacher whose cross-entropy with the true class is the loss.
        class_index: The class.
        most: Images to score, chosen at random if the class has more; None: all.
        seed: Seed of that choice.
    """
    ranked = rank_by_loss(dataset, scorer, class_index, most, seed)
    middle = (len(ranked) - 1) / 2
    outward = np.argsort(np.abs(np.arange(len(ranked)) - middle), kind="stable")
    return tuple(ranked[rank] for rank in outward)


@lru_cache(maxsize=4096)
def rank_by_loss(
    dataset: ImageDataset, scorer: Teacher, class_index: int, most: int | None, seed: int
) -> tuple[int, ...]:
    """Return indices of a class's training images, the lowest loss first.

    Arguments are those of `rank_by_median_loss`.
    """
    indices = _subsample(dataset, class_index, most, seed)
    images = (dataset.normalize(dataset.images("train", batch)) for batch in _batches(indices))
    losses = np.concatenate([_cross_entropy(scorer, batch, class_index) for batch in images])
    return tuple(indices[row] for row in np.argsort(losses, kind="stable"))


def _coreset(run: Run, recipe: Recipe, method: str) -> Callable[[int], Sequence[int]] | None:
    if recipe.init == "real" and recipe.has_groups:
        return load_groups(run, method)["images"].tolist().__getitem__
    if recipe.init not in CORESETS:
        return None
    settings, dataset = run.settings, open_dataset(run.settings)
    most, seed = recipe.max_scored_images, settings.replicate_seed
    if recipe.init == "forgetting":
        events = forgetting_events(run, settings.primary)
        candidates = partial(_subsample, dataset, most=most, seed=seed)
        return cache(lambda c: sorted(candidates(c), key=lambda index: -int(events[index])))
    rank = partial(coreset_indices, dataset, load_teacher(run, settings.primary))
    return partial(rank, kind=recipe.init, count=settings.ipc, most=most, seed=seed)


@lru_cache(maxsize=4096)
def coreset_indices(
    dataset: ImageDataset,
    scorer: Teacher,
    class_index: int,
    *,
    kind: str,
    count: int,
    most: int | None,
    seed: int,
) -> tuple[int, ...]:
    """Return indices of a class's training images, in the order in which a coreset takes them.

    Args:
        dataset: The real images.
        scorer: Teacher whose logits (el2n), or else penultimate features, choose the images.
        class_index: The class.
        kind: `el2n`: the lowest score first; or a key of `GREEDY`.
        count: Images to choose.
        most: Images to choose from, drawn at random if the class has more; None: all.
        seed: Seed of that draw.

    Raises:
        UsageError: Features are needed, and the teacher has no linear head.
    """
    indices, device = _subsample(dataset, class_index, most, seed), next(scorer.parameters()).device
    greedy, outputs = GREEDY.get(kind), list[np.ndarray]()
    for batch in _batches(indices):
        images = dataset.normalize(dataset.images("train", batch).to(device))
        with torch.no_grad():
            found = scorer.features_and_logits(images)[0] if greedy else scorer(images)
        outputs.append(found.cpu().numpy())
    whole = np.concatenate(outputs)
    if greedy:
        return tuple(indices[row] for row in greedy(whole, count))
    scores = el2n_scores(whole, class_index)
    return tuple(indices[row] for row in np.argsort(scores, kind="stable")[:count])


@lru_cache(maxsize=4096)
def lowest_loss_crops(
    dataset: ImageDataset,
    scorer: Teacher,
    class_index: int,
    *,
    most: int | None,
    tries: int,
    crop_min: float,
    side: int,
    seed: int,
) -> tuple[Crop, ...]:
    """Return the best crop of each training image of a class, the lowest loss first (RDED).

    Args:
        dataset: The real images.
        scorer: Teacher whose cross-entropy with the true class is the loss.
        class_index: The class.
        most: Images to score, chosen at random if the class has more; None: all.
        tries: Random square crops per image, of which the one of lowest loss is kept.
        crop_min: Smallest crop, as a share of the image's area in (0, 1].
        side: Side of a crop in the mosaic, in pixels; the loss is that of this resolution.
        seed: Seed of all draws.
    """
    indices = _subsample(dataset, class_index, most, seed)
    generator = torch.Generator().manual_seed(unit_seed(seed, "crops", class_index))
    crops = [
        (index, sample_crop(dataset.image_size, crop_min, generator, ratios=_SQUARE))
        for index in indices
        for _ in range(tries)
    ]
    size = dataset.image_size
    images = (_upsample(crop_images(dataset, batch, side), size) for batch in _batches(crops))
    losses = np.concatenate([_cross_entropy(scorer, batch, class_index) for batch in images])
    best = losses.reshape(-1, tries).argmin(1) + tries * np.arange(len(indices))
    return tuple(crops[int(row)] for row in best[np.argsort(losses[best], kind="stable")])


def crop_images(dataset: ImageDataset, crops: Sequence[Crop], side: int) -> Tensor:
    """Return crops of training images, canonical [n, 3, side, side]."""
    indices, rows = np.unique([index for index, _ in crops], return_inverse=True)
    # An image with several crops is decoded once.
    images = dataset.normalize(dataset.images("train", indices.tolist()))[torch.from_numpy(rows)]
    resized = augment(images, [AugParams(box) for _, box in crops])
    if side == dataset.image_size:
        return resized
    return functional.interpolate(resized, size=(side, side), mode="bilinear", antialias=True)


def mosaic(dataset: ImageDataset, crops: Sequence[Crop], grid: int) -> Tensor:
    """Return grid x grid crops as one canonical image [3, S, S], in reading order."""
    tiles = crop_images(dataset, crops, dataset.image_size // grid)
    rows = [torch.cat(list(row), dim=-1) for row in tiles.split(grid)]
    return torch.cat(rows, dim=-2)


def _subsample(dataset: ImageDataset, class_index: int, most: int | None, seed: int) -> list[int]:
    indices = dataset.class_indices("train", class_index)
    if most is not None and len(indices) > most:
        rng = np.random.default_rng(unit_seed(seed, "scored", class_index))
        indices = np.sort(rng.permutation(indices)[:most])
    return [int(index) for index in indices]


def _batches(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + _BATCH_SIZE] for start in range(0, len(items), _BATCH_SIZE)]


def _upsample(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear")


@torch.no_grad()
def _cross_entropy(scorer: Teacher, images: Tensor, class_index: int) -> np.ndarray:
    """Return each image's cross-entropy with the class, float32 [n]."""
    device = next(scorer.parameters()).device
    target = torch.full((len(images),), class_index, device=device)
    logits = scorer(images.to(device))
    losses: np.ndarray = functional.cross_entropy(logits, target, reduction="none").cpu().numpy()
    return losses
