"""How long the rest will take, from what has been taken so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from prism_nb.plans.synthesis import batch_of
from prism_nb.run import Run
from prism_nb.units import Unit


@dataclass(frozen=True)
class Cost:
    """What a unit is, as far as its time is concerned.

    Attributes:
        method: Its method.
        work: Images times steps; images alone where they are not optimised.
        images: Number of its images.
    """

    method: str
    work: float
    images: int


def cost_of(run: Run, unit: Unit) -> Cost:
    """Return what a unit takes, in images times steps."""
    recipe = run.settings.recipe_of(unit.key["method"]).at_slot(unit.key["slots"][0])
    images = len(batch_of(unit).members())
    steps = recipe.iterations if recipe.images == "recovered" else 1
    return Cost(unit.key["method"], float(images * steps), images)


def seconds_left(
    costs: Mapping[str, Cost],
    done: Collection[str],
    taken: Mapping[str, tuple[float, float]],
) -> float | None:
    """Estimate the time that units which are not done will take.

    Each method is scaled by its own units, since networks differ in what they take; one that
    nothing is known of by all units together.

    Args:
        costs: Every unit's cost, by name.
        done: The units that are done.
        taken: Of units that are done or at work: the share that is done, and the seconds so far.

    Returns:
        Seconds, or None where nothing has been measured.
    """
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for name, (share, spent) in taken.items():
        for key in (costs[name].method, ""):
            seconds[key] = seconds.get(key, 0.0) + spent
            work[key] = work.get(key, 0.0) + share * costs[name].work
    if not work.get(""):
        return None if len(done) < len(costs) else 0.0
    left = 0.0
    for name, cost in costs.items():
        if name not in done:
            key = cost.method if work.get(cost.method) else ""
            share = 1 - taken.get(name, (0.0, 0.0))[0]
            left += share * cost.work * seconds[key] / work[key]
    return left


def images_per_minute(
    costs: Mapping[str, Cost], made: Collection[str], shares: Mapping[str, float], seconds: float
) -> float | None:
    """Return the throughput since the driver began; units at work count by their share."""
    whole = sum(costs[name].images for name in made)
    images = whole + sum(share * costs[name].images for name, share in shares.items())
    return 60 * images / seconds if images and seconds > 0 else None
