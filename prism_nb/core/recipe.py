"""Recipes: everything that a distillation method decides in the synthesis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.presets import CONFIGS
from prism_nb.core.yaml_io import StrictModel, YamlFolder, read_mapping

RECIPES = YamlFolder(CONFIGS / "recipes", "method")
TEXTS = {"title", "paper", "deviations"}  # fields that decide no result
IMPORT_ONLY_FIELDS = ("source", "resize", "indices")
Names = tuple[str, ...]
Tiled = Literal["patches", "mosaic"]  # made of several real images
Coreset = Literal["el2n", "herding", "k_center", "forgetting"]
CORESETS: Names = get_args(Coreset)
_LARGE = 128  # pixels; RDED tiles crops from here on


@dataclass(frozen=True)
class TeacherPool:
    """The networks of a pool, by what each may give."""

    primary: str  # gives the logits where a recipe names no other
    teachers: Names  # every network, in order
    bn_only: Names = ()  # without a head for the run's classes: they give BN statistics alone
    logits_only: Names = ()  # give logits alone, such as networks without batch norm

    @property
    def logits(self) -> Names:
        """The networks that may give logits."""
        return tuple(name for name in self.teachers if name not in self.bn_only)

    @property
    def bn(self) -> Names:
        """The networks that may give BN statistics."""
        return tuple(name for name in self.teachers if name not in self.logits_only)

    @property
    def scale_reference(self) -> str:
        """The network to whose scale others' BN losses are brought: the primary if it has one."""
        return self.primary if self.primary in self.bn else self.bn[0]


class Recipe(StrictModel):
    """One method: its initial images, its teachers, and its optimisation.

    The defaults are the published PRISM's at ImageNet-1K scale (arXiv 2511.09905 and its code).
    """

    title: str = Field(description="name in tables and figures")
    paper: str = Field(description="source of the method")
    deviations: str = Field(
        "", description="parts of the paper or its program that the recipe lacks"
    )

    image_source: Literal["optimized", "initial", "imported"] = Field(
        "optimized",
        description="optimized: from the initial images; initial: these as they are; imported: the "
        "images of `source`",
    )
    source: str | None = Field(
        None, description="folder, archive, parquet or tensor file of the images (imported)"
    )
    resize: bool = Field(
        False, description="resize images of another size instead of refusing them (imported)"
    )
    indices: str | None = Field(
        None,
        description="SHA-256 of a list of training images in `source`, which `prism-nb import "
        "--indices` writes; None: `source` holds images (imported)",
    )
    init: Literal["noise", "real", "real_random", "real_median", Tiled, Coreset] = Field(
        "real",
        description="initial images: noise, or real images of each class: the first in file order "
        "(with `targets`, one of each group), random ones, or by the primary: of median loss, "
        "crops of lowest loss (RDED), mosaics of whole images of lowest loss (CIM), of lowest "
        "EL2N score, by herding or greedy k-centre in its features, or those it forgot most often",
    )
    max_scored_images: int | None = Field(
        300,
        ge=1,
        description="training images per class that the primary ranks (real_median, patches, "
        "mosaic, coresets), drawn at random; None: all",
    )
    crops_per_image: int = Field(5, ge=1, description="random crops scored per image (patches)")
    mosaic_grid: int | None = Field(
        None,
        ge=1,
        le=4,
        description="tiles per side of an image (patches, mosaic); None: 2 from 128 pixels on, "
        "else 1",
    )
    batches: Literal["cross_class", "class_wise", "class_major"] = Field(
        "cross_class",
        description="images of a unit: one per class of many classes, many of one class, or all of "
        "some classes",
    )

    match: Literal["statistics", "features"] = Field(
        "statistics",
        description="statistics, and logits; or features of the logit teachers, which the tiles "
        "of an image are to have of the real images behind them (CIM)",
    )
    logits: Literal["primary", "round_robin", "bn_teachers"] = Field(
        "primary",
        description="logit teachers: the primary, each network of the pool in turn by step, or all "
        "BN teachers of the step",
    )
    whole_head: bool = Field(
        True,
        description="cross-entropy among all classes of a teacher's head, of which the dataset's "
        "may be a part; false: among the dataset's",
    )
    selection: Literal["pre", "intra", "all", "round_robin", "fixed"] = Field(
        "pre",
        description="BN teachers: drawn once per unit (pre) or again every resample_every steps "
        "(intra), all of the pool, one after another by step, or bn_fixed",
    )
    resample_every: int = Field(100, ge=1, description="steps between two draws (intra)")
    primary_in_bn: Literal["always", "candidate", "never"] = Field(
        "always", description="role of the primary in the draw of BN teachers"
    )
    num_bn_slots: int = Field(3, ge=0, description="most BN teachers drawn besides the primary")
    bn_slot_prob: float = Field(0.5, ge=0, le=1, description="probability of each of these")
    bn_subset_size: int | None = Field(
        None, ge=1, description="number of BN teachers drawn, in place of num_bn_slots"
    )
    bn_fixed: Names = Field((), description="BN teachers besides the primary (fixed)")
    bn_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="weights of networks' BN losses; 1 where not named"
    )
    sample_per: Literal["batch", "image_index"] = Field(
        "batch", description="one draw per unit, or per image index for all its units"
    )
    no_bn_policy: Literal["error", "zero"] = Field(
        "error",
        description="drawn networks without BN layers: an error, or a zero term that counts in |T|",
    )
    bn_normalize: Literal["none", "layers", "channels", "real"] = Field(
        "none",
        description="scale of each network's BN loss to the primary's: by the number of layers or "
        "channels, or by the loss of real images",
    )
    bn_distance: Literal["norms", "relative"] = Field(
        "norms",
        description="distance of a layer's statistics: norms of the differences of mean and "
        "variance; relative: to the running deviation, with the log-ratio of variances, by the "
        "root of the number of channels",
    )
    targets: Literal["running", "image_index", "class"] = Field(
        "running",
        description="targets of BN layers: running statistics; for each image index those of a "
        "group of real images, by difficulty (PSM), a unit then holds one image index; or those of "
        "the class's real images, with class_wise batches",
    )
    statistics: Literal["bn", "bn_conv"] = Field(
        "bn", description="statistics of the inputs of BN layers, or of convolutions too (G-VBSM)"
    )
    conv_patch_size: int = Field(
        16, ge=2, description="side of the patches of feature maps (bn_conv)"
    )
    conv_drop_prob: float = Field(
        0.0, ge=0, lt=1, description="probability that a step leaves out a convolution (bn_conv)"
    )
    stats_ema: float = Field(
        0.0, ge=0, lt=1, description="EMA momentum of batch statistics over steps (G-VBSM); 0: none"
    )

    iterations: int = Field(4000, ge=1, description="optimisation steps per unit")
    sizes: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0,),
        min_length=1,
        description="side of the images in phases of equal length, as a share of image_size; the "
        "last is 1 (FADRM)",
    )
    residual_alpha: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the images that is kept where a phase begins; the rest is what they "
        "began as (FADRM)",
    )
    residual_source: Literal["own", "retrieved"] = Field(
        "own",
        description="what is mixed in where a phase begins: what the images began as (own), or "
        "those patches of their classes that are nearest to them in features (RETA)",
    )
    early_late_step: int = Field(
        0, ge=0, description="steps fewer per image index; a unit then holds one image index"
    )
    early_late_period: int = Field(8, ge=1, description="image indices after which it restarts")
    delt_start_gap: int = Field(
        0, ge=0, description="steps between the starts of groups of images in one unit (DELT)"
    )
    delt_groups: int = Field(8, ge=1, description="number of these groups")
    lr: float = Field(0.05, gt=0, description="learning rate of Adam, in normalised pixel units")
    lr_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate over the iterations; cosine falls to 0"
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="decay of the images towards what they began as: AdamW's, of the difference",
    )
    clamp: bool = Field(
        True, description="clamp images after each step to what pixels can hold; false: at the end"
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="decay of Adam's first moment")
    beta2: float = Field(0.9, ge=0, lt=1, description="decay of Adam's second moment")
    r_bn: float = Field(0.01, ge=0, description="weight of the BN loss")
    first_bn_multiplier: float = Field(
        10.0, ge=0, description="weight of each network's first matched layer"
    )
    tv_l1: float = Field(0.0, ge=0, description="weight of the total variation")
    l2_scale: float = Field(0.0, ge=0, description="weight of the images' L2 norm")
    densification_weight: float = Field(
        0.0, ge=0, description="weight of the data densification loss (G-VBSM)"
    )

    crop_min: float = Field(0.08, gt=0, le=1, description="smallest crop, as a share of the area")
    crop_schedule: Literal["fixed", "curriculum"] = Field(
        "fixed", description="curriculum: from whole images to crop_min by a cosine (CDA)"
    )
    flip: bool = Field(True, description="mirror half of the views")
    jitter: int = Field(32, ge=0, description="largest cyclic shift per axis, in pixels")
    crop_pad: float = Field(
        0.0,
        ge=0,
        le=1,
        description="largest shift of crops to each side, as a share of the image's; zeros come in "
        "(DSA)",
    )
    cutout: float = Field(
        0.0, ge=0, le=1, description="side of a square set to zero, as a share of the image's (DSA)"
    )
    views: Literal["per_batch", "per_image"] = Field(
        "per_batch", description="whether a batch or each image has its own view"
    )
    image_format: Literal["png", "jpeg75"] = Field(
        "png",
        description="png: 8-bit pixels, rounded; jpeg75: truncated and stored as JPEG of quality "
        "75, as the published program does",
    )

    def for_image_index(self, image_index: int) -> Recipe:
        """Return the recipe of one image index: with early-late, its own number of iterations."""
        fewer = self.early_late_step * (image_index % self.early_late_period)
        return self.model_copy(update={"iterations": self.iterations - fewer})

    def start_step(self, image_index: int, ipc: int) -> int:
        """Return the step at which an image index enters its unit's optimisation.

        The image indices are split into `delt_groups` groups in order; group g starts after
        g * delt_start_gap steps (DELT, CVPR 2025, early-late training).
        """
        return self.delt_start_gap * (image_index * self.delt_groups // ipc)

    @property
    def has_groups(self) -> bool:
        """Whether targets are of groups of real images: by difficulty (PSM), or by class."""
        return self.image_source == "optimized" and self.targets != "running"

    @property
    def by_difficulty(self) -> bool:
        """Whether each image index has a difficulty group of the real images (PSM)."""
        return self.has_groups and self.targets == "image_index"

    @property
    def by_image_index(self) -> bool:
        """Whether a unit holds one image index, which has its own number of steps or targets."""
        return bool(self.early_late_step) or self.by_difficulty

    @property
    def mean_area(self) -> float:
        """Mean area of the images over all phases, as a share of their full size."""
        return sum(size**2 for size in self.sizes) / len(self.sizes)

    def grid(self, image_size: int) -> int:
        """Return the tiles per side of an image of `image_size` pixels (patches, mosaic)."""
        return self.mosaic_grid or (2 if image_size >= _LARGE else 1)

    def real_per_image(self, image_size: int) -> int:
        """Return the number of real images in one initial image."""
        if self.init == "noise" or self.image_source == "imported":
            return 0
        return self.grid(image_size) ** 2 if self.has_tiles else 1

    def tiles(self, image_size: int) -> int:
        """Return the parts of an image, in full size, that networks see: 1 if they see it whole."""
        return self.grid(image_size) ** 2 if self.match == "features" else 1

    @property
    def has_tiles(self) -> bool:
        """Whether initial images are put together from several real ones."""
        return self.init in get_args(Tiled)

    @property
    def needs_scorer(self) -> bool:
        """Whether the primary scores real images to choose the initial ones."""
        ranked = {"real_median", *get_args(Tiled), *CORESETS}
        return self.image_source != "imported" and self.init in ranked

    def logit_teachers(self, pool: TeacherPool) -> Names:
        """Return the networks that give logits in turn; none where the BN teachers do."""
        choices = {"primary": (pool.primary,), "round_robin": pool.logits, "bn_teachers": ()}
        return choices[self.logits]

    def always_in_bn(self, pool: TeacherPool) -> Names:
        """Return the primary if it is a BN teacher in every draw."""
        always = self.primary_in_bn == "always" and pool.primary in pool.bn
        return (pool.primary,) if always else ()

    def candidates(self, pool: TeacherPool) -> Names:
        """Return the networks of a pool that may be drawn as BN teachers."""
        if self.selection == "fixed":
            return self.bn_fixed
        draws_none = not self.num_bn_slots and self.bn_subset_size is None
        if self.selection in {"pre", "intra"} and draws_none:
            return ()
        return tuple(n for n in pool.bn if n != pool.primary or self.primary_in_bn == "candidate")

    def mean_networks(self, pool: TeacherPool) -> float:
        """Return how many networks of a pool a step takes on average, for comparisons of costs.

        Features take half a network: forward for the real image, forward and backward for the tile.
        """
        if self.match == "features":
            return 0.75
        always, candidates = self.always_in_bn(pool), self.candidates(pool)
        if self.selection in {"all", "fixed"}:
            drawn: float = len({*candidates} - {*always})
        elif self.selection == "round_robin":
            drawn = 1
        else:
            slots = self.bn_subset_size or self.num_bn_slots * self.bn_slot_prob
            drawn = min(slots, len(candidates))
        logits_alone = self.logits != "bn_teachers" and not always
        return len(always) + drawn + logits_alone

    def roles(self, pool: TeacherPool) -> dict[str, Names]:
        """Return the networks of a pool by what they may do, in the order of drawing.

        They score real images, give logits, are drawn as BN teachers, or give the scale of others'
        BN losses; or they give features.
        """
        scorer = (pool.primary,) if self.needs_scorer else ()
        if self.image_source != "optimized":
            return {"scores": scorer}
        if self.match == "features":
            return {"scores": scorer, "features": self.logit_teachers(pool)}
        return {
            "scores": scorer,
            "logits": self.logit_teachers(pool),
            "drawn": tuple(dict.fromkeys([*self.always_in_bn(pool), *self.candidates(pool)])),
            "scales": (pool.scale_reference,) if self.bn_normalize != "none" else (),
        }

    def networks(self, pool: TeacherPool, *roles: str) -> Names:
        """Return every network of a pool that may have one of some roles, or any role at all."""
        found = self.roles(pool)
        return tuple(dict.fromkeys(n for role in roles or found for n in found.get(role, ())))


# -- reading ---------------------------------------------------------------------------------


def load_recipe(
    method: str,
    own: dict[str, Any] | None = None,
    shared: dict[str, Any] | None = None,
    *,
    where: str | None = None,
) -> Recipe:
    """Build a method's recipe.

    Args:
        method: Its name: a recipe of the kit unless `own` names another.
        own: The method's own changes. A `base` names the recipe that they change; with a `title`
            and a `paper`, a new method starts from the defaults.
        shared: Changes to the recipes of all methods that optimise, overridden by their own.
        where: Name of `own` in messages.
    """
    changes, where = dict(own or {}), where or f"recipe {method}"
    base = changes.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{where}: base must be the name of a recipe, got {base!r}")
    is_new = base is None and method not in RECIPES.names() and {"title", "paper"} <= changes.keys()
    values = {} if is_new else dict(_read(base or method, where))
    if base not in {None, method}:
        values["title"] = method
    if (values | changes).get("image_source", "optimized") == "optimized":
        values |= shared or {}
    return Recipe.parse(values | changes, where=where)


def read_recipe_file(path: str | Path, method: str | None = None) -> dict[str, Any]:
    """Read a recipe file: the YAML of a whole recipe, or of changes to a `base`.

    Its method has the name of the file, without ending, where none is given.

    Raises:
        UsageError: The file cannot be read, or does not give a valid recipe.
    """
    values = read_mapping(Path(path), where=f"recipe {path}")
    load_recipe(method or Path(path).stem, values, where=f"recipe {path}")
    return values


def recipe_differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """Return the values of a recipe that matter and differ from another recipe's.

    Texts do not matter, and where nothing is optimised, neither does what only an optimisation
    reads.
    """
    mine, theirs = recipe.plain(), other.plain()
    matter = mine.keys() - TEXTS
    if recipe.image_source == "initial":
        matter &= {"image_source", "init", "image_format"} | (
            _SCORING_FIELDS if recipe.needs_scorer else set()
        )
    elif recipe.image_source == "imported":
        matter &= {"image_source", *IMPORT_ONLY_FIELDS}
        matter -= {"source"} if recipe.indices else set()  # whose content they are the hash of
    else:
        matter -= set(IMPORT_ONLY_FIELDS)
    return {name: mine[name] for name in mine if name in matter and mine[name] != theirs[name]}


_SCORING_FIELDS = {"max_scored_images", "crops_per_image", "mosaic_grid", "crop_min"}


@cache
def _read(name: str, where: str) -> dict[str, Any]:
    """Read a recipe of the kit, once per process, since every unit needs its method's."""
    if name not in RECIPES.names():
        raise UsageError(
            f"{where}: unknown method {name!r}; {suggest(name, RECIPES.names())}; a recipe of your "
            "own needs an entry in `recipes` with a `base`, or with a `title` and a `paper`"
        )
    return RECIPES.read(name)
