"""Recipes: what a distillation method is, written as data over one synthesis loop."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from prism_nb.errors import UsageError, suggest
from prism_nb.strict import Strict, read_yaml


class Recipe(Strict):
    """One method: where its images start, which networks steer them, and how they are optimised.

    The defaults are the published PRISM's at ImageNet-1K scale (arXiv 2511.09905 and its code).
    """

    title: str = Field(description="name in tables and figures")
    paper: str = Field(description="source of the method")
    images: Literal["recovered", "real"] = Field(
        "recovered", description="optimised from `init`, or training images as they are"
    )
    init: Literal["noise", "real"] = Field("real", description="initial images")
    iterations: int = Field(4000, ge=1, description="optimisation steps per unit")
    lr: float = Field(0.05, gt=0, description="Adam step size, in normalised pixel units")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam first moment decay")
    beta2: float = Field(0.9, ge=0, lt=1, description="Adam second moment decay")
    bn_weight: float = Field(0.01, ge=0, description="r_bn, weight of the BN alignment")
    first_layer_factor: float = Field(10.0, ge=0, description="weight of each first BN layer")
    primary_in_bn: bool = Field(True, description="the primary always aligns its BN statistics")
    bn_slots: int = Field(3, ge=0, description="slots for further BN teachers, drawn per unit")
    bn_probability: float = Field(0.5, ge=0, le=1, description="chance that a slot is filled")
    crop_min: float = Field(0.08, gt=0, le=1, description="smallest crop, as a share of the area")
    flip: bool = Field(True, description="mirror the batch in half of the steps")
    roll: int = Field(32, ge=0, description="largest cyclic shift per axis, in pixels")


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
        UsageError: Unknown recipe, unknown setting, wrong value, or a recipe that steers nothing.
    """
    if name not in recipe_names():
        raise UsageError(f"unknown method {name!r}; {suggest(name, recipe_names())}")
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    values = read_yaml(text, where=f"recipe {name}")
    for change in overrides:
        values = {**values, **change}
    recipe = Recipe.parse(values, where=f"recipe {name}")
    if recipe.images == "recovered" and not recipe.primary_in_bn and not recipe.bn_slots:
        raise UsageError(
            f"recipe {name}: primary_in_bn is false and bn_slots is 0, so no network would give "
            "BN statistics; allow one of the two, or set bn_weight to 0 with primary_in_bn true"
        )
    return recipe
