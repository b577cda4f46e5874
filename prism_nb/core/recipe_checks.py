"""Checks that a recipe can be carried out with a pool of networks and a number of images."""

from __future__ import annotations

from collections.abc import Iterator

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.recipe import RECIPES, Recipe, TeacherPool
from prism_nb.core.units import is_pretrained_name


def check_recipe(method: str, recipe: Recipe, pool: TeacherPool, ipc: int) -> None:
    """Check that a method's recipe can be carried out with a pool and an IPC."""
    for problem in _problems(method, recipe, pool, ipc):
        raise UsageError(f"method {method}: {problem}")


def _problems(method: str, recipe: Recipe, pool: TeacherPool, ipc: int) -> Iterator[str]:
    if recipe.image_source == "imported" and recipe.source is None:
        yield f"no source; name the images in recipes.{method}.source, or use `prism-nb import`"
    if recipe.image_source == "imported" and method in {*RECIPES.names()} - {"imported"}:
        yield "that is a recipe of the kit; give the imported images another name (--as)"
    if recipe.needs_scorer and recipe.init == "forgetting" and is_pretrained_name(pool.primary):
        yield (
            f"the primary {pool.primary!r} has given weights, so no training counts what it "
            "forgets; name its architecture alone, or choose another init"
        )
    if recipe.image_source == "optimized":
        yield from _part_problems(recipe, pool)
        if recipe.match == "features":
            yield from _feature_problems(recipe)
        else:
            yield from _draw_problems(recipe, pool)
        yield from _step_problems(recipe, ipc)


def _part_problems(recipe: Recipe, pool: TeacherPool) -> Iterator[str]:
    """Yield what the method asks of networks that can only give logits, or only BN statistics."""
    limited = ", ".join((*pool.bn_only, *pool.logits_only))
    if recipe.has_groups and recipe.statistics == "bn_conv":
        yield f"targets {recipe.targets} go with statistics bn alone; change one of the two"
    if recipe.targets == "class" and recipe.batches != "class_wise":
        yield f"targets class do not go with batches {recipe.batches}; set batches to class_wise"
    if recipe.logits == "bn_teachers" and limited:
        yield (
            f"logits bn_teachers needs networks that give both, but {limited} can give one alone "
            "(bn_only, logits_only); take it out of `teachers`, or leave the method out"
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
        yield "bn_fixed names the primary, but primary_in_bn is never; change one of the two"
    candidates = recipe.candidates(pool)
    if (recipe.bn_subset_size or 0) > len(candidates):
        yield (
            f"bn_subset_size is {recipe.bn_subset_size}, but the pool has {len(candidates)} "
            "candidates besides the primary; lower it, or add to `teachers`"
        )
    draws_some = recipe.bn_subset_size or (recipe.num_bn_slots and recipe.bn_slot_prob)
    drawable = candidates and (recipe.selection not in {"pre", "intra"} or draws_some)
    if not recipe.always_in_bn(pool) and not drawable:
        why = f"primary_in_bn is {recipe.primary_in_bn}"
        if pool.primary in pool.logits_only:
            why = f"the primary {pool.primary!r} is among logits_only"
        yield f"no BN teacher: {why}, and no other can be drawn; change that, or add to `teachers`"


def _feature_problems(recipe: Recipe) -> Iterator[str]:
    wrong = {
        "init": "" if recipe.has_tiles else "mosaic or patches",
        "logits": "primary" if recipe.logits == "bn_teachers" else "",
        "sizes": "[1]" if recipe.sizes != (1.0,) else "",
    }
    weights = ("tv_l1", "l2_scale", "densification_weight")
    wrong |= {name: "0" if getattr(recipe, name) else "" for name in weights}
    for name, remedy in wrong.items():
        if remedy:
            yield f"{name} does not go with match features; set it to {remedy}"


def _step_problems(recipe: Recipe, ipc: int) -> Iterator[str]:
    if recipe.by_image_index and recipe.delt_start_gap:
        yield "delt_start_gap goes neither with early_late_step nor with targets image_index"
    for image_index in range(ipc):
        iterations = recipe.for_image_index(image_index).iterations
        steps = iterations - recipe.start_step(image_index, ipc)
        if steps >= 1 and iterations < len(recipe.sizes):
            yield f"sizes has more phases than image index {image_index} steps; raise iterations"
        if steps < 1:
            yield (
                f"image index {image_index} would get {steps} steps; raise iterations, or lower "
                "early_late_step or delt_start_gap"
            )
    yield from _phase_problems(recipe)
    needs_several = recipe.match == "statistics" and recipe.targets != "class"
    is_alone = recipe.batches == "class_wise" and (ipc < 2 or recipe.by_image_index)
    if needs_several and is_alone:
        yield "batches class_wise would hold one image and no statistics; use cross_class"


def _phase_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.sizes[-1] != 1:
        yield "the last of sizes is not 1, but images end in full size; add 1, or change the last"
    if len(recipe.sizes) > 1 and recipe.delt_start_gap:
        yield "delt_start_gap does not go with several sizes; set one of them to its default"
    if recipe.residual_source == "retrieved" and recipe.init != "patches":
        yield "residual_source retrieved chooses among patches; set init to patches in `recipes`"
