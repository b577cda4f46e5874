"""The recipe: everything that one distillation method says to the synthesis loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.yaml_io import StrictModel, read_mapping, read_yaml

Names = tuple[str, ...]
_LARGE = 128  # pixels; RDED tiles crops from here on


class Recipe(StrictModel):
    """One method: where its images start, which networks steer them, and how they are optimised.

    The defaults are the published PRISM's at ImageNet-1K scale (arXiv 2511.09905 and its code).
    """

    title: str = Field(description="name in tables and figures")
    paper: str = Field(description="source of the method")
    deviations: str = Field(
        "", description="what of the paper or its program the recipe does not have"
    )

    image_source: Literal["optimized", "initial", "imported"] = Field(
        "optimized",
        description="optimised from `init`, the initial images as they are, or those of `source`",
    )
    source: str | None = Field(
        None, description="folder or archive whose images are taken over (imported)"
    )
    resize: bool = Field(False, description="whether images of another size are fitted (imported)")
    init: Literal["noise", "real", "real_random", "real_median", "patches"] = Field(
        "real",
        description="initial images: noise, or of each class the first in file order, random ones, "
        "those of median difficulty for the primary, or its easiest crops (patches, RDED)",
    )
    max_scored_images: int = Field(
        300, ge=1, description="training images per class that real_median and patches look at"
    )
    crops_per_image: int = Field(5, ge=1, description="random crops per image that patches look at")
    mosaic_grid: int | None = Field(
        None,
        ge=1,
        le=4,
        description="crops per side of an image (patches); none: 2 from 128 pixels on, else 1",
    )
    batches: Literal["cross_class", "class_wise", "class_major"] = Field(
        "cross_class",
        description="a unit holds one slot of many classes, one class, or many classes whole",
    )

    logits: Literal["primary", "round_robin", "bn_teachers"] = Field(
        "primary",
        description="who gives the logits: the primary, every network of the pool in turn, step by "
        "step, or each drawn BN teacher its own",
    )
    selection: Literal["pre", "intra", "all", "round_robin", "fixed"] = Field(
        "pre", description="drawn once per unit, drawn again, all, one after another, or as named"
    )
    resample_every: int = Field(100, ge=1, description="steps between two draws (intra)")
    primary_in_bn: Literal["always", "candidate", "never"] = Field(
        "always", description="whether the primary is among the BN teachers"
    )
    num_bn_slots: int = Field(3, ge=0, description="slots for BN teachers beside the primary")
    bn_slot_prob: float = Field(0.5, ge=0, le=1, description="chance that a slot is filled")
    bn_subset_size: int | None = Field(
        None, ge=1, description="draw exactly so many candidates, instead of filling slots"
    )
    bn_fixed: Names = Field((), description="BN teachers beside the primary (fixed)")
    bn_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="weight of a network's BN loss; 1 if none"
    )
    sample_per: Literal["batch", "image_index"] = Field(
        "batch", description="who shares a draw: a unit, or all units of an image slot"
    )
    no_bn_policy: Literal["error", "zero"] = Field(
        "error",
        description="networks without BN layers: an error, or a zero term that counts in |T|",
    )
    bn_normalize: Literal["none", "layers", "channels", "real"] = Field(
        "none",
        description="scale each network's BN loss to the primary's: by number of statistics, "
        "of their channels, or by its value on real images",
    )
    statistics: Literal["bn", "bn_conv"] = Field(
        "bn", description="inputs of the BN layers, or of the convolutions as well (G-VBSM)"
    )
    conv_patch_size: int = Field(
        16, ge=2, description="side of the patches in feature maps, in pixels"
    )
    conv_drop_prob: float = Field(
        0.0, ge=0, lt=1, description="chance that a convolution is left out"
    )
    stats_ema: float = Field(
        0.0, ge=0, lt=1, description="of a running mean over steps that statistics are smoothed by"
    )

    iterations: int = Field(4000, ge=1, description="optimisation steps per unit")
    early_late_step: int = Field(
        0, ge=0, description="steps fewer for each next image slot; units then hold one slot each"
    )
    early_late_period: int = Field(8, ge=1, description="slots after which that begins anew")
    delt_start_gap: int = Field(
        0, ge=0, description="steps between two groups of slots that join one optimisation (DELT)"
    )
    delt_groups: int = Field(8, ge=1, description="number of such groups")
    lr: float = Field(0.05, gt=0, description="Adam step size, in normalised pixel units")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam first moment decay")
    beta2: float = Field(0.9, ge=0, lt=1, description="Adam second moment decay")
    r_bn: float = Field(0.01, ge=0, description="r_bn, weight of the BN alignment")
    first_bn_multiplier: float = Field(
        10.0, ge=0, description="weight of the first layer that is aligned in each network"
    )
    tv_l1: float = Field(0.0, ge=0, description="weight of the total variation")
    l2_scale: float = Field(0.0, ge=0, description="weight of the images' L2 norm")
    densification_weight: float = Field(
        0.0, ge=0, description="weight of the data densification within a class (G-VBSM)"
    )

    crop_min: float = Field(0.08, gt=0, le=1, description="smallest crop, as a share of the area")
    crop_schedule: Literal["fixed", "curriculum"] = Field(
        "fixed", description="curriculum: from whole images down to crop_min along a cosine (CDA)"
    )
    flip: bool = Field(True, description="mirror half of the views")
    jitter: int = Field(32, ge=0, description="largest cyclic shift per axis, in pixels")
    views: Literal["per_batch", "per_image"] = Field(
        "per_batch", description="one crop, flip and roll per step, or one for each image"
    )
    image_format: Literal["png", "jpeg75"] = Field(
        "png",
        description="8-bit pixels rounded, or cut off and sent through JPEG of quality 75 as the "
        "published program does",
    )

    def for_image_index(self, image_index: int) -> Recipe:
        """Return the recipe of one image slot: with early-late, its own number of iterations."""
        fewer = self.early_late_step * (image_index % self.early_late_period)
        return self.model_copy(update={"iterations": self.iterations - fewer})

    def start_step(self, image_index: int, ipc: int) -> int:
        """Return the step from which an image slot takes part in its unit's optimisation.

        The slots of a class are cut into `delt_groups` groups in order; group g joins after
        g * delt_start_gap steps (DELT, CVPR 2025, early-late training).
        """
        return self.delt_start_gap * (image_index * self.delt_groups // ipc)

    def grid(self, image_size: int) -> int:
        """Return how many crops stand side by side in an image of that many pixels (patches)."""
        return self.mosaic_grid or (2 if image_size >= _LARGE else 1)

    def real_per_image(self, image_size: int) -> int:
        """Return how many real images make one initial image."""
        if self.init == "noise" or self.image_source == "imported":
            return 0
        return self.grid(image_size) ** 2 if self.init == "patches" else 1

    @property
    def needs_scorer(self) -> bool:
        """Whether the primary chooses the initial images."""
        return self.image_source != "imported" and self.init in {"real_median", "patches"}

    def candidates(self, primary: str, pool: Sequence[str]) -> Names:
        """Return the networks of a pool that may give BN statistics beside a set primary."""
        if self.selection == "fixed":
            return self.bn_fixed
        if (
            self.selection in {"pre", "intra"}
            and not self.num_bn_slots
            and self.bn_subset_size is None
        ):
            return ()
        return tuple(n for n in pool if n != primary or self.primary_in_bn == "candidate")

    def bn_networks(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network of a pool that may give BN statistics."""
        if self.image_source != "optimized":
            return ()
        always = (primary,) if self.primary_in_bn == "always" else ()
        return tuple(dict.fromkeys([*always, *self.candidates(primary, pool)]))

    def stat_networks(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network whose statistics are read: to align them, or to scale others."""
        anchor = (
            (primary,) if self.bn_normalize != "none" and self.image_source == "optimized" else ()
        )
        return tuple(dict.fromkeys([*self.bn_networks(primary, pool), *anchor]))

    def networks(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network that may take part in the synthesis in any way."""
        return tuple(
            dict.fromkeys(n for names in self.roles(primary, pool).values() for n in names)
        )

    def roles(self, primary: str, pool: Sequence[str]) -> dict[str, Names]:
        """Return which networks of a pool may do what, in the order in which they are drawn."""
        scorer = (primary,) if self.needs_scorer else ()
        if self.image_source != "optimized":
            return {"scores": scorer}
        logit_teachers = {"primary": (primary,), "round_robin": tuple(pool), "bn_teachers": ()}
        return {
            "scores": scorer,
            "logits": logit_teachers[self.logits],
            "drawn": self.bn_networks(primary, pool),
            "scales": (primary,) if self.bn_normalize != "none" else (),
        }


def check_pool(method: str, recipe: Recipe, primary: str, pool: Sequence[str]) -> None:
    """Check that a recipe can be carried out with a pool.

    Raises:
        UsageError: It names a network outside the pool, or asks for more than the pool holds.
    """
    if recipe.image_source != "optimized":
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
    if (recipe.bn_subset_size or 0) > len(candidates):
        raise UsageError(
            f"method {method}: bn_subset_size is {recipe.bn_subset_size}, but the pool holds only "
            f"{len(candidates)} candidates beside the primary; lower it or add to `teachers`"
        )
    drawable = candidates and (recipe.selection not in {"pre", "intra"} or _can_draw(recipe))
    if recipe.primary_in_bn != "always" and not drawable:
        raise UsageError(
            f"method {method} has no BN teacher: primary_in_bn is {recipe.primary_in_bn!r} and no "
            "other network can be drawn; add to `teachers`, or set primary_in_bn to always"
        )


def check_steps(method: str, recipe: Recipe, ipc: int) -> None:
    """Check that every image slot is optimised for at least one step.

    Raises:
        UsageError: A slot would be saved as it began, or two schedules contradict each other.
    """
    if recipe.image_source != "optimized":
        return
    if recipe.early_late_step and recipe.delt_start_gap:
        raise UsageError(
            f"method {method}: early_late_step gives each image index its own unit, "
            f"delt_start_gap puts "
            "all slots into one; set one of them to 0"
        )
    for image_index in range(ipc):
        steps = recipe.for_image_index(image_index).iterations - recipe.start_step(image_index, ipc)
        if steps < 1:
            raise UsageError(
                f"method {method}: image slot {image_index} would get {steps} steps; raise "
                f"iterations, "
                "or lower early_late_step (the slots of a period get fewer and fewer steps) or "
                "delt_start_gap (later groups join later)"
            )


def check_batches(method: str, recipe: Recipe, ipc: int) -> None:
    """Check that no unit is a single image, which has no statistics worth aligning.

    Raises:
        UsageError: Class-wise batches at one image per class, or per slot.
    """
    if recipe.image_source != "optimized" or recipe.batches != "class_wise":
        return
    if ipc < 2 or recipe.early_late_step:
        raise UsageError(
            f"method {method} has class-wise batches, which at ipc 1, or with early_late_step, "
            "hold one image and no statistics; raise ipc, set early_late_step to 0 or use "
            "cross_class batches"
        )


def check_source(method: str, recipe: Recipe) -> None:
    """Check that a method whose images are taken over says from where, and no other one does.

    Raises:
        UsageError: No source, one that depends on the working directory, or one that is not read.
    """
    if recipe.image_source != "imported":
        if recipe.source is not None:
            raise UsageError(
                f"method {method}: source is {recipe.source!r}, but its images are "
                f"{recipe.image_source}; set images to imported, or leave source out"
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
    return recipe.bn_subset_size is not None or (
        recipe.num_bn_slots > 0 and recipe.bn_slot_prob > 0
    )


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the kit."""
    folder = resources.files("prism_nb").joinpath("configs", "recipes")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, *overrides: dict[str, Any]) -> Recipe:
    """Read a recipe of the kit and lay changes over it, later ones last.

    Raises:
        UsageError: Unknown recipe, unknown setting or wrong value.
    """
    return Recipe.parse(_layered(_read(name), *overrides), where=f"recipe {name}")


def recipe_differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """Return the values of a recipe that matter and that another one does not share.

    Titles and papers are left out; so is, where nothing is optimised, all that only an
    optimisation reads.
    """
    mine, theirs = recipe.plain(), other.plain()
    matter = mine.keys() - {"title", "paper", "deviations"}
    if recipe.image_source == "initial":
        matter &= {"image_source", "init", *(_OF_SCORED if recipe.needs_scorer else ())}
    elif recipe.image_source == "imported":
        matter &= {"image_source", *IMPORT_ONLY_FIELDS}
    return {name: mine[name] for name in mine if name in matter and mine[name] != theirs[name]}


IMPORT_ONLY_FIELDS = ("source", "resize")
_OF_SCORED = ("max_scored_images", "crops_per_image", "mosaic_grid", "crop_min")


def read_recipe_file(path: str | Path, method: str | None = None) -> dict[str, Any]:
    """Read a recipe of one's own: the YAML of a whole recipe, or of changes to a `base`.

    Args:
        path: The file.
        method: The method that it is for; the file's name without ending where None.

    Raises:
        UsageError: It cannot be read, holds something else, or a recipe with it would be wrong.
    """
    values = read_mapping(Path(path), where=f"recipe {path}")
    make_recipe(method or Path(path).stem, values, where=f"recipe {path}")
    return values


def make_recipe(
    method: str, own: dict[str, Any], *shared: dict[str, Any], where: str | None = None
) -> Recipe:
    """Build a method's recipe.

    Args:
        method: Its name: a recipe of the kit unless `own` says otherwise.
        own: The method's own changes. A `base` names the recipe that they change; with a `title`
            and a `paper` of its own, an unknown method stands on the defaults alone.
        shared: Changes to the recipes of all methods that optimise, laid below their own; a
            method that optimises nothing has nothing that they could mean.
        where: What `own` is, for messages.

    Raises:
        UsageError: Unknown recipe, unknown setting or wrong value.
    """
    changes = dict(own)
    base = changes.pop("base", None)
    place = where or f"recipe {method}"
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{place}: base must be the name of a recipe, got {base!r}")
    if base is None and method not in recipe_names() and {"title", "paper"} <= changes.keys():
        below: dict[str, Any] = {}
    else:
        below = _read(base or method, where=place) | (
            {} if base in {None, method} else {"title": method}
        )
    if (below | changes).get("image_source") in {"initial", "imported"}:
        return Recipe.parse(below | changes, where=place)
    return Recipe.parse(_layered(below, *shared, changes), where=place)


def _read(name: str, *, where: str | None = None) -> dict[str, Any]:
    if name not in recipe_names():
        place = "" if where is None else f"{where}: "
        raise UsageError(
            f"{place}unknown method {name!r}; {suggest(name, recipe_names())}; a recipe of your "
            "own needs an entry in `recipes` with a `base`, or with a `title` and a `paper`"
        )
    return copy.deepcopy(_of_the_kit(name))


@lru_cache(maxsize=64)
def _of_the_kit(name: str) -> dict[str, Any]:
    """Read a recipe of the kit, once per process, since every unit asks for its method's."""
    text = (
        resources.files("prism_nb")
        .joinpath("configs", "recipes")
        .joinpath(f"{name}.yaml")
        .read_text(encoding="utf-8")
    )
    values: dict[str, Any] = read_yaml(text, where=f"recipe {name}")
    return values


def _layered(*layers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for layer in layers for name, value in layer.items()}
