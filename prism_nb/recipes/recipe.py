"""The recipe: everything that one distillation method says to the synthesis loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from prism_nb.strict import Strict

Names = tuple[str, ...]
_LARGE = 128  # pixels; RDED tiles crops from here on


class Recipe(Strict):
    """One method: where its images start, which networks steer them, and how they are optimised.

    The defaults are the published PRISM's at ImageNet-1K scale (arXiv 2511.09905 and its code).
    """

    title: str = Field(description="name in tables and figures")
    paper: str = Field(description="source of the method")
    lacks: str = Field("", description="what of the paper or its program the recipe does not have")

    images: Literal["recovered", "initial", "imported"] = Field(
        "recovered",
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
    score_most: int = Field(
        300, ge=1, description="training images per class that real_median and patches look at"
    )
    patch_crops: int = Field(5, ge=1, description="random crops per image that patches look at")
    patch_grid: int | None = Field(
        None,
        ge=1,
        le=4,
        description="crops per side of an image (patches); none: 2 from 128 pixels on, else 1",
    )
    batches: Literal["cross_class", "class_wise", "class_major"] = Field(
        "cross_class",
        description="a unit holds one slot of many classes, one class, or many classes whole",
    )

    logits: Literal["primary", "in_turn", "bn_teachers"] = Field(
        "primary",
        description="who gives the logits: the primary, every network of the pool in turn, step by "
        "step, or each drawn BN teacher its own",
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
    bn_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="weight of a network's BN loss; 1 if none"
    )
    drawn_per: Literal["unit", "slot"] = Field(
        "unit", description="who shares a draw: a unit, or all units of an image slot"
    )
    bn_less: Literal["refuse", "count"] = Field(
        "refuse",
        description="networks without BN layers: an error, or a zero term that counts in |T|",
    )
    bn_normalise: Literal["none", "layers", "channels", "real"] = Field(
        "none",
        description="scale each network's BN loss to the primary's: by number of statistics, "
        "of their channels, or by its value on real images",
    )
    statistics: Literal["bn", "bn_conv"] = Field(
        "bn", description="inputs of the BN layers, or of the convolutions as well (G-VBSM)"
    )
    conv_patch: int = Field(16, ge=2, description="side of the patches in feature maps, in pixels")
    conv_drop: float = Field(0.0, ge=0, lt=1, description="chance that a convolution is left out")
    momentum: float = Field(
        0.0, ge=0, lt=1, description="of a running mean over steps that statistics are smoothed by"
    )

    iterations: int = Field(4000, ge=1, description="optimisation steps per unit")
    early_late_step: int = Field(
        0, ge=0, description="steps fewer for each next image slot; units then hold one slot each"
    )
    early_late_period: int = Field(8, ge=1, description="slots after which that begins anew")
    join_step: int = Field(
        0, ge=0, description="steps between two groups of slots that join one optimisation (DELT)"
    )
    join_groups: int = Field(8, ge=1, description="number of such groups")
    lr: float = Field(0.05, gt=0, description="Adam step size, in normalised pixel units")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam first moment decay")
    beta2: float = Field(0.9, ge=0, lt=1, description="Adam second moment decay")
    bn_weight: float = Field(0.01, ge=0, description="r_bn, weight of the BN alignment")
    first_layer_factor: float = Field(
        10.0, ge=0, description="weight of the first layer that is aligned in each network"
    )
    tv_weight: float = Field(0.0, ge=0, description="weight of the total variation")
    l2_weight: float = Field(0.0, ge=0, description="weight of the images' L2 norm")
    density_weight: float = Field(
        0.0, ge=0, description="weight of the data densification within a class (G-VBSM)"
    )

    crop_min: float = Field(0.08, gt=0, le=1, description="smallest crop, as a share of the area")
    crop_schedule: Literal["fixed", "curriculum"] = Field(
        "fixed", description="curriculum: from whole images down to crop_min along a cosine (CDA)"
    )
    flip: bool = Field(True, description="mirror half of the views")
    roll: int = Field(32, ge=0, description="largest cyclic shift per axis, in pixels")
    views: Literal["per_batch", "per_image"] = Field(
        "per_batch", description="one crop, flip and roll per step, or one for each image"
    )
    stored: Literal["exact", "jpeg75"] = Field(
        "exact",
        description="8-bit pixels rounded, or cut off and sent through JPEG of quality 75 as the "
        "published program does",
    )

    def at_slot(self, slot: int) -> Recipe:
        """Return the recipe of one image slot: with early-late, its own number of iterations."""
        fewer = self.early_late_step * (slot % self.early_late_period)
        return self.model_copy(update={"iterations": self.iterations - fewer})

    def joins_at(self, slot: int, ipc: int) -> int:
        """Return the step from which an image slot takes part in its unit's optimisation.

        The slots of a class are cut into `join_groups` groups in order; group g joins after
        g * join_step steps (DELT, CVPR 2025, early-late training).
        """
        return self.join_step * (slot * self.join_groups // ipc)

    def grid(self, image_size: int) -> int:
        """Return how many crops stand side by side in an image of that many pixels (patches)."""
        return self.patch_grid or (2 if image_size >= _LARGE else 1)

    def real_per_image(self, image_size: int) -> int:
        """Return how many real images make one initial image."""
        if self.init == "noise" or self.images == "imported":
            return 0
        return self.grid(image_size) ** 2 if self.init == "patches" else 1

    @property
    def is_scored(self) -> bool:
        """Whether the primary chooses the initial images."""
        return self.images != "imported" and self.init in {"real_median", "patches"}

    def candidates(self, primary: str, pool: Sequence[str]) -> Names:
        """Return the networks of a pool that may give BN statistics beside a set primary."""
        if self.selection == "fixed":
            return self.bn_fixed
        if self.selection in {"pre", "intra"} and not self.bn_slots and self.bn_subset is None:
            return ()
        return tuple(n for n in pool if n != primary or self.primary_in_bn == "candidate")

    def bn_networks(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network of a pool that may give BN statistics."""
        if self.images != "recovered":
            return ()
        always = (primary,) if self.primary_in_bn == "always" else ()
        return tuple(dict.fromkeys([*always, *self.candidates(primary, pool)]))

    def watched(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network whose statistics are read: to align them, or to scale others."""
        anchor = (primary,) if self.bn_normalise != "none" and self.images == "recovered" else ()
        return tuple(dict.fromkeys([*self.bn_networks(primary, pool), *anchor]))

    def networks(self, primary: str, pool: Sequence[str]) -> Names:
        """Return every network that may take part in the synthesis in any way."""
        return tuple(
            dict.fromkeys(n for names in self.roles(primary, pool).values() for n in names)
        )

    def roles(self, primary: str, pool: Sequence[str]) -> dict[str, Names]:
        """Return which networks of a pool may do what, in the order in which they are drawn."""
        scorer = (primary,) if self.is_scored else ()
        if self.images != "recovered":
            return {"scores": scorer}
        speakers = {"primary": (primary,), "in_turn": tuple(pool), "bn_teachers": ()}
        return {
            "scores": scorer,
            "logits": speakers[self.logits],
            "drawn": self.bn_networks(primary, pool),
            "scales": (primary,) if self.bn_normalise != "none" else (),
        }
