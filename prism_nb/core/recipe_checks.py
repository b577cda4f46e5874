"""Checks that a recipe can be carried out with a pool of networks and a number of images."""

from __future__ import annotations

from collections.abc import Iterator

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.recipe import Recipe, TeacherPool
from prism_nb.core.units import is_pretrained_name


def check_recipe(method: str, recipe: Recipe, pool: TeacherPool, ipc: int) -> None:
    """Check that a method's recipe can be carried out with a pool and an IPC.

    Raises:
        UsageError: It cannot; the message names the remedy.
    """
    for problem in _problems(method, recipe, pool, ipc):
        raise UsageError(f"method {method}: {problem}")


def _problems(method: str, recipe: Recipe, pool: TeacherPool, ipc: int) -> Iterator[str]:
    if recipe.image_source == "imported" and recipe.source is None:
        yield (
            "no source; name the folder or archive of the images in "
            f"recipes.{method}.source, or use `prism-nb import`"
        )
    if recipe.needs_scorer and recipe.init == "forgetting" and is_pretrained_name(pool.primary):
        yield (
            "images are forgotten in a training, but the primary "
            f"{pool.primary!r} has given weights; name an architecture, which is trained here, or "
            "choose another init"
        )
    if recipe.image_source == "optimized":
        yield from _part_problems(recipe, pool)
        if recipe.match == "features":
            yield from _feature_problems(method, recipe)
        else:
            yield from _draw_problems(recipe, pool)
        yield from _step_problems(recipe, ipc)


def _part_problems(recipe: Recipe, pool: TeacherPool) -> Iterator[str]:
    """Yield what the method asks of networks that can only give logits, or only BN statistics."""
    limited = (*pool.bn_only, *pool.logits_only)
    if recipe.has_groups and recipe.statistics == "bn_conv":
        yield (
            f"targets {recipe.targets} are of BN layers, but statistics bn_conv are of "
            "convolutions too; set targets to running, or statistics to bn"
        )
    if recipe.targets == "class" and recipe.batches != "class_wise":
        yield (
            f"targets are of one class, but batches {recipe.batches} have several; set batches to "
            "class_wise"
        )
    if recipe.logits == "bn_teachers" and limited:
        yield (
            "it takes logits and BN statistics from the same networks, but "
            f"{', '.join(limited)} can give only one of the two (bn_only, logits_only); take the "
            "network out of `teachers`, or leave the method out"
        )
    for name in recipe.bn_fixed:
        if name in pool.logits_only:
            yield f"bn_fixed names {name!r}, which is among logits_only; change one of the two"


def _draw_problems(recipe: Recipe, pool: TeacherPool) -> Iterator[str]:
    known = pool.teachers
    for setting, names in (("bn_fixed", recipe.bn_fixed), ("bn_weights", recipe.bn_weights)):
        for name in names:
            if name not in known:
                yield f"{setting} names {name!r}, which is not in the pool; {suggest(name, known)}"
    if len(set(recipe.bn_fixed)) < len(recipe.bn_fixed):
        yield "bn_fixed names a network twice"
    if recipe.primary_in_bn == "never" and pool.primary in recipe.bn_fixed:
        yield (
            f"bn_fixed names the primary {pool.primary!r}, but primary_in_bn is never; change one "
            "of the two"
        )
    candidates = recipe.candidates(pool)
    if (recipe.bn_subset_size or 0) > len(candidates):
        yield (
            f"bn_subset_size is {recipe.bn_subset_size}, but the pool holds only "
            f"{len(candidates)} candidates besides the primary; lower it or add to `teachers`"
        )
    draws_some = recipe.bn_subset_size or (recipe.num_bn_slots and recipe.bn_slot_prob)
    drawable = candidates and (recipe.selection not in {"pre", "intra"} or draws_some)
    if not recipe.always_in_bn(pool) and not drawable:
        why, remedy = f"primary_in_bn is {recipe.primary_in_bn!r}", "set primary_in_bn to always"
        if pool.primary in pool.logits_only:
            why, remedy = f"the primary {pool.primary!r} gives logits only", "change logits_only"
        yield (
            f"no BN teacher: {why} and no other network can be drawn; add to `teachers`, or "
            f"{remedy}"
        )


def _feature_problems(method: str, recipe: Recipe) -> Iterator[str]:
    if not recipe.has_tiles:
        yield (
            f"it matches tiles with the real images behind them, but init is {recipe.init}; set "
            f"recipes.{method}.init to mosaic or patches"
        )
    if recipe.logits == "bn_teachers":
        yield "no network is a BN teacher where features are matched; set logits to primary"
    if recipe.sizes != (1.0,):
        yield "tiles are matched in full size alone; set sizes to [1]"
    for name in ("tv_l1", "l2_scale", "densification_weight"):
        if getattr(recipe, name):
            yield f"the distance of features is the only loss; set {name} to 0"


def _step_problems(recipe: Recipe, ipc: int) -> Iterator[str]:
    if recipe.by_image_index and recipe.delt_start_gap:
        yield (
            "early_late_step, or targets image_index, need a unit per image index, delt_start_gap "
            "all image indices in one unit; set one of them to its default"
        )
    for image_index in range(ipc):
        iterations = recipe.for_image_index(image_index).iterations
        steps = iterations - recipe.start_step(image_index, ipc)
        if steps >= 1 and iterations < len(recipe.sizes):
            yield f"sizes has more phases than image index {image_index} steps; raise iterations"
        if steps < 1:
            yield (
                f"image index {image_index} would get {steps} steps; raise iterations, or lower "
                "early_late_step (each index of a period gets fewer steps) or delt_start_gap "
                "(later groups start later)"
            )
    yield from _phase_problems(recipe)
    is_one_image = recipe.match == "statistics" and recipe.batches == "class_wise"
    if is_one_image and recipe.targets != "class" and (ipc < 2 or recipe.by_image_index):
        yield (
            "class-wise batches, which at ipc 1, or with early_late_step or targets image_index, "
            "hold one image and no statistics; raise ipc, or use cross_class batches"
        )


def _phase_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.sizes[-1] != 1:
        yield "the last of sizes is not 1, but images end in full size; add 1, or change the last"
    if len(recipe.sizes) > 1 and recipe.delt_start_gap:
        yield (
            "phases of sizes begin for all images at once, but delt_start_gap starts some of them "
            "late; set sizes to [1], or delt_start_gap to 0"
        )
    if recipe.residual_source == "retrieved" and recipe.init != "patches":
        yield (
            "residual_source retrieved chooses among patches of real images, but init is "
            f"{recipe.init}; set its own init to patches (in `recipes`), or residual_source to own"
        )
