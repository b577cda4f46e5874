"""How much each network's BN loss counts beside the others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prism_nb.recipes import Recipe
from prism_nb.synthesis.objective import alignment
from prism_nb.synthesis.watch import Watch


@torch.no_grad()
def network_scales(
    recipe: Recipe,
    primary: Watch | None,
    watches: Sequence[Watch],
    real_images: Callable[[], Tensor],
) -> dict[str, float]:
    """Return the factor of every BN teacher's loss: its weight times its normalisation.

    Networks differ in depth by an order of magnitude, and their losses with them. Normalisation
    brings each to the primary's scale, so that r_bn keeps its meaning: by the number of
    statistics (one per BN layer, two per convolution), by that of their channels, or by the loss
    that real images have.

    Args:
        recipe: The method.
        primary: The network whose scale is kept; needed where the recipe normalises.
        watches: All networks that are drawn in the unit.
        real_images: Gives as many real images of the unit's classes, canonical [N, 3, S, S];
            called only where the recipe asks for them.
    """
    weights = {w.name: recipe.bn_weights.get(w.name, 1.0) for w in watches}
    if recipe.bn_normalise == "none" or primary is None:
        return weights
    size = _MEASURES.get(recipe.bn_normalise) or _loss_on(real_images())
    unit = size(primary)
    return {w.name: weights[w.name] * unit / size(w) for w in watches if w.targets}


_MEASURES: dict[str, Callable[[Watch], float]] = {
    "layers": lambda watch: len(watch.targets),
    "channels": lambda watch: sum(target.mean.numel() for target in watch.targets.values()),
}


def _loss_on(images: Tensor) -> Callable[[Watch], float]:
    def loss(watch: Watch) -> float:
        _, seen = watch.sight.observe(images, tuple(watch.targets))
        weights = list(watch.weights.values())
        return float(alignment(seen, list(watch.targets.values()), weights))

    return loss
