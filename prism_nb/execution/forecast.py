"""The time that the rest of a stage takes, at the pace of what is done."""

from __future__ import annotations

from collections.abc import Mapping

from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import batch_of
from prism_nb.core.units import Unit


def relative_cost(settings: Settings, unit: Unit) -> float:
    """Return a unit's cost, to be compared with that of other units of its stage.

    It is images x tiles x steps x networks x area of the images in the synthesis, and 1 elsewhere.
    """
    if unit.stage != "synthesis":
        return 1.0
    batch = batch_of(unit)
    recipe = settings.recipe_of(unit.params["method"]).for_image_index(batch.image_indices[0])
    if recipe.image_source != "optimized":
        return float(len(batch.members()))
    starts = (recipe.start_step(index, settings.ipc) for _, index in batch.members())
    steps = sum(recipe.iterations - start for start in starts)
    tiles = recipe.tiles(settings.image_size)
    return steps * tiles * recipe.mean_area * recipe.mean_networks(settings.pool)


def seconds_left(
    costs: Mapping[str, float],
    progress: Mapping[str, tuple[float, float]],
    *,
    measured: bool = False,
) -> float | None:
    """Return the time that the rest of a stage will take, at the pace of what is done.

    Args:
        costs: Every unit's cost, by its name.
        progress: By the name of a unit begun: its share that is done in [0, 1], and its seconds.
        measured: Whether costs are seconds, so that nothing need be done yet.

    Returns:
        Seconds; None if nothing is known.
    """
    done = sum(share * costs[name] for name, (share, _) in progress.items())
    left = sum(costs.values()) - done
    if left and done:
        return left * sum(seconds for _, seconds in progress.values()) / done
    return left if measured or not left else None
