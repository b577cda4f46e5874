"""How much each network's BN loss counts beside the others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prism_nb.recipes import Recipe
from prism_nb.synthesis.objective import bn_alignment
from prism_nb.teachers.teacher import Teacher


@torch.no_grad()
def network_scales(
    recipe: Recipe,
    primary: Teacher,
    bn_teachers: Sequence[Teacher],
    real_images: Callable[[], Tensor],
) -> dict[str, float]:
    """Return the factor of every BN teacher's loss: its weight times its normalisation.

    Networks differ in depth by an order of magnitude, and their losses with them. Normalisation
    brings each to the primary's scale, so that r_bn keeps its meaning: by the number of BN
    layers, by the number of BN channels, or by the loss that real images have.

    Args:
        recipe: The method.
        primary: The network whose scale is kept.
        bn_teachers: All networks that are drawn in the unit.
        real_images: Gives as many real images of the unit's classes, canonical [N, 3, S, S];
            called only where the recipe asks for them.
    """
    weights = {t.name: recipe.bn_weights.get(t.name, 1.0) for t in bn_teachers}
    if recipe.bn_normalise == "none":
        return weights
    size = _MEASURES.get(recipe.bn_normalise) or _loss_on(real_images(), recipe)
    unit = size(primary)
    return {t.name: weights[t.name] * unit / size(t) for t in bn_teachers if t.bn_layers}


_MEASURES: dict[str, Callable[[Teacher], float]] = {
    "layers": lambda teacher: len(teacher.bn_layers),
    "channels": lambda teacher: sum(layer.num_features for layer in teacher.bn_layers),
}


def _loss_on(images: Tensor, recipe: Recipe) -> Callable[[Teacher], float]:
    def loss(teacher: Teacher) -> float:
        observed, factor = teacher.observe(images)[1], recipe.first_layer_factor
        return float(bn_alignment(observed, teacher.running(), first_layer_factor=factor))

    return loss
