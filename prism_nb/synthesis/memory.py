"""The memory of a device that a step of the synthesis takes, counted without taking it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prism_nb.plans.batches import Batch
from prism_nb.plans.synthesis import batch_of, steering_networks
from prism_nb.settings import Settings
from prism_nb.synthesis.costs import steps_of
from prism_nb.synthesis.counts import StepCounter
from prism_nb.teachers.arithmetic import Arithmetic
from prism_nb.teachers.memory import peak_bytes
from prism_nb.units import Unit

_HELD = 3  # times the images: themselves, and Adam's two means of their gradient


def most_bytes(settings: Settings, arithmetic: Arithmetic, units: Sequence[Unit]) -> float:
    """Return what the largest step of some units takes at once; 0 where none is optimised."""
    counter = StepMemory(settings, arithmetic.dataset, _known=arithmetic.peaks)
    found = [0.0]
    for method, batch in dict.fromkeys((unit.key["method"], batch_of(unit)) for unit in units):
        networks = steering_networks(settings, method)
        step = counter.step_bytes(method, batch)
        found.append(step + sum(map(arithmetic.weight_bytes, networks)) if step else 0.0)
    return max(found)


@dataclass
class StepMemory(StepCounter):
    """Finds the largest moment of steps, eager and in float32.

    A step's networks run one after the other, and each lets go of what it kept before the next one
    runs, so the most memory is that of the largest of them.
    """

    def step_bytes(self, method: str, batch: Batch) -> float:
        """Return the bytes that a unit's largest step takes beside the networks' weights."""
        recipe = self.settings.recipe_of(method).at_slot(batch.slots[0])
        if recipe.images != "recovered":
            return 0.0
        size, side = len(batch.members()), self.settings.image_size
        parts = {
            (name, name in speakers, name in team)
            for (speakers, team, _), _ in steps_of(self.settings, method, batch)
            for name in {*speakers, *team}
        }
        images = 4 * 3 * side**2 * size
        return _HELD * images + max(self._part_cost(recipe, part, size) for part in parts)

    def _measure(self, work: Callable[[], object]) -> float:
        return peak_bytes(work)
