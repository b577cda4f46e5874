"""Whether a recipe can be carried out, found before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prism_nb.errors import UsageError, suggest
from prism_nb.recipes.recipe import Recipe


def require_pool(method: str, recipe: Recipe, primary: str, pool: Sequence[str]) -> None:
    """Check that a recipe can be carried out with a pool.

    Raises:
        UsageError: It names a network outside the pool, or asks for more than the pool holds.
    """
    if recipe.images != "recovered":
        return
    for setting, names in (("bn_fixed", recipe.bn_fixed), ("bn_weights", recipe.bn_weights)):
        for name in names:
            if name not in pool:
                raise UsageError(
                    f"method {method}: {setting} names {name!r}, which is not in the pool; "
                    f"{suggest(name, pool)}"
                )
    doubled = sorted({name for name in recipe.bn_fixed if recipe.bn_fixed.count(name) > 1})
    if doubled:
        raise UsageError(f"method {method}: bn_fixed names {', '.join(doubled)} twice")
    if recipe.primary_in_bn == "never" and primary in recipe.bn_fixed:
        raise UsageError(
            f"method {method}: bn_fixed names the primary {primary!r}, but primary_in_bn is never; "
            "change one of the two"
        )
    candidates = recipe.candidates(primary, pool)
    if (recipe.bn_subset or 0) > len(candidates):
        raise UsageError(
            f"method {method}: bn_subset is {recipe.bn_subset}, but the pool holds only "
            f"{len(candidates)} candidates beside the primary; lower it or add to `teachers`"
        )
    drawable = candidates and (recipe.selection not in {"pre", "intra"} or _can_draw(recipe))
    if recipe.primary_in_bn != "always" and not drawable:
        raise UsageError(
            f"method {method} has no BN teacher: primary_in_bn is {recipe.primary_in_bn!r} and no "
            "other network can be drawn; add to `teachers`, or set primary_in_bn to always"
        )


def require_steps(method: str, recipe: Recipe, ipc: int) -> None:
    """Check that every image slot is optimised for at least one step.

    Raises:
        UsageError: A slot would be saved as it began, or two schedules contradict each other.
    """
    if recipe.images != "recovered":
        return
    if recipe.early_late_step and recipe.join_step:
        raise UsageError(
            f"method {method}: early_late_step gives each slot a unit of its own, join_step puts "
            "all slots into one; set one of them to 0"
        )
    for slot in range(ipc):
        steps = recipe.at_slot(slot).iterations - recipe.joins_at(slot, ipc)
        if steps < 1:
            raise UsageError(
                f"method {method}: image slot {slot} would get {steps} steps; raise iterations, "
                "or lower early_late_step (the slots of a period get fewer and fewer steps) or "
                "join_step (later groups join later)"
            )


def require_batches(method: str, recipe: Recipe, ipc: int) -> None:
    """Check that no unit is a single image, which has no statistics worth aligning.

    Raises:
        UsageError: Class-wise batches at one image per class, or per slot.
    """
    if recipe.images != "recovered" or recipe.batches != "class_wise":
        return
    if ipc < 2 or recipe.early_late_step:
        raise UsageError(
            f"method {method} has class-wise batches, which at ipc 1, or with early_late_step, "
            "hold one image and no statistics; raise ipc, set early_late_step to 0 or use "
            "cross_class batches"
        )


def require_source(method: str, recipe: Recipe) -> None:
    """Check that a method whose images are taken over says from where, and no other one does.

    Raises:
        UsageError: No source, one that depends on the working directory, or one that is not read.
    """
    if recipe.images != "imported":
        if recipe.source is not None:
            raise UsageError(
                f"method {method}: source is {recipe.source!r}, but its images are "
                f"{recipe.images}; set images to imported, or leave source out"
            )
        return
    if recipe.source is None:
        raise UsageError(
            f"method {method}: no source; name the folder or archive of the images in "
            f"recipes.{method}.source, or use `prism-nb import`"
        )
    if not Path(recipe.source).is_absolute():
        raise UsageError(
            f"method {method}: source {recipe.source!r} depends on where the run is started; "
            "write the whole path"
        )


def _can_draw(recipe: Recipe) -> bool:
    return recipe.bn_subset is not None or (recipe.bn_slots > 0 and recipe.bn_probability > 0)
