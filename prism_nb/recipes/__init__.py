"""Recipes: what a distillation method is, written as data over one synthesis loop."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from prism_nb.errors import UsageError, suggest
from prism_nb.strict import Strict, read_yaml

Names = tuple[str, ...]


class Recipe(Strict):
    """One method: where its images start, which networks steer them, and how they are optimised.

    The defaults are the published PRISM's at ImageNet-1K scale (arXiv 2511.09905 and its code).
    """

    title: str = Field(description="name in tables and figures")
    paper: str = Field(description="source of the method")
    lacks: str = Field("", description="what of the paper or its program the recipe does not have")

    images: Literal["recovered", "real"] = Field(
        "recovered", description="optimised from `init`, or random training images as they are"
    )
    init: Literal["noise", "real", "real_random"] = Field(
        "real", description="initial images; real: the first of each class in file order"
    )
    batches: Literal["cross_class", "class_wise"] = Field(
        "cross_class", description="a unit holds many classes, or one"
    )

    selection: Literal["pre", "intra", "all", "round_robin", "fixed"] = Field(
        "pre", description="drawn once per unit, drawn again, all, one after another, or as named"
    )
    redraw_every: int = Field(100, ge=1, description="steps between two draws (intra)")
    primary_in_bn: Literal["always", "candidate", "never"] = Field(
        "always", description="whether the primary aligns its BN statistics"
    )
    bn_slots: int = Field(3, ge=0, description="slots for BN teachers beside the primary")
    bn_probability: float = Field(0.5, ge=0, le=1, description="chance that a slot is filled")
    bn_subset: int | None = Field(
        None, ge=1, description="draw exactly so many candidates, instead of filling slots"
    )
    bn_fixed: Names = Field((), description="BN teachers beside the primary (fixed)")
    bn_weights: dict[str, float] = Field({}, description="weight of a network's BN loss; 1 if none")
    bn_less: Literal["refuse", "count"] = Field(
        "refuse",
        description="networks without BN layers: an error, or a zero term that counts in |T|",
    )
    bn_normalise: Literal["none", "layers", "channels", "real"] = Field(
        "none",
        description="scale each network's BN loss to the primary's: by number of layers, of "
        "channels, or by its value on real images",
    )

    iterations: int = Field(4000, ge=1, description="optimisation steps per unit")
    early_late_step: int = Field(
        0, ge=0, description="steps fewer for each next image slot; units then hold one slot each"
    )
    early_late_period: int = Field(8, ge=1, description="slots after which that begins anew")
    lr: float = Field(0.05, gt=0, description="Adam step size, in normalised pixel units")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam first moment decay")
    beta2: float = Field(0.9, ge=0, lt=1, description="Adam second moment decay")
    bn_weight: float = Field(0.01, ge=0, description="r_bn, weight of the BN alignment")
    first_layer_factor: float = Field(10.0, ge=0, description="weight of each first BN layer")
    tv_weight: float = Field(0.0, ge=0, description="weight of the total variation")
    l2_weight: float = Field(0.0, ge=0, description="weight of the images' L2 norm")

    crop_min: float = Field(0.08, gt=0, le=1, description="smallest crop, as a share of the area")
    crop_schedule: Literal["fixed", "curriculum"] = Field(
        "fixed", description="curriculum: from whole images down to crop_min along a cosine (CDA)"
    )
    flip: bool = Field(True, description="mirror the batch in half of the steps")
    roll: int = Field(32, ge=0, description="largest cyclic shift per axis, in pixels")

    def at_slot(self, slot: int) -> Recipe:
        """Return the recipe of one image slot: with early-late, its own number of iterations."""
        fewer = self.early_late_step * (slot % self.early_late_period)
        return self.model_copy(update={"iterations": self.iterations - fewer})

    def candidates(self, primary: str, pool: Sequence[str]) -> Names:
        """Return the networks of a pool that may give BN statistics beside a set primary."""
        if self.selection == "fixed":
            return self.bn_fixed
        if self.selection in {"pre", "intra"} and not self.bn_slots and self.bn_subset is None:
            return ()
        return tuple(n for n in pool if n != primary or self.primary_in_bn == "candidate")

    def bn_networks(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network of a pool that may give BN statistics."""
        always = (primary,) if self.primary_in_bn == "always" else ()
        return tuple(dict.fromkeys([*always, *self.candidates(primary, pool)]))


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the kit."""
    folder = resources.files(__name__)
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, *overrides: dict[str, Any]) -> Recipe:
    """Read a recipe and lay changes over it, later ones last.

    Args:
        name: A name of `recipe_names`.
        overrides: Recipe settings to change.

    Raises:
        UsageError: Unknown recipe, unknown setting or wrong value.
    """
    if name not in recipe_names():
        raise UsageError(
            f"unknown method {name!r}; {suggest(name, recipe_names())}; a recipe of your own needs "
            "an entry in `recipes` with a `base`"
        )
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    values = read_yaml(text, where=f"recipe {name}")
    for change in overrides:
        values = {**values, **change}
    return Recipe.parse(values, where=f"recipe {name}")


def require_pool(method: str, recipe: Recipe, primary: str, pool: Sequence[str]) -> None:
    """Check that a recipe can be carried out with a pool.

    Raises:
        UsageError: It names a network outside the pool, or asks for more than the pool holds.
    """
    if recipe.images == "real":
        return
    for setting, names in (("bn_fixed", recipe.bn_fixed), ("bn_weights", recipe.bn_weights)):
        for name in names:
            if name not in pool:
                raise UsageError(
                    f"method {method}: {setting} names {name!r}, which is not in the pool; "
                    f"{suggest(name, pool)}"
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
        UsageError: A slot would be saved as it began.
    """
    for slot in range(ipc):
        steps = recipe.at_slot(slot).iterations
        if recipe.images == "recovered" and steps < 1:
            raise UsageError(
                f"method {method}: image slot {slot} would get {steps} steps; raise iterations "
                "above early_late_step x (early_late_period - 1), or set early_late_step to 0"
            )


def _can_draw(recipe: Recipe) -> bool:
    return recipe.bn_subset is not None or (recipe.bn_slots > 0 and recipe.bn_probability > 0)
