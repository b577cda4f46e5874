"""What a unit of the synthesis will cost, from a few real steps on this device.

A step's time is that of its view and of Adam, and of each network that it runs. So every network
is timed once in each of its roles, with fresh weights, which cost what trained ones cost; the
teams of all units are known beforehand, and their steps are added up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from prism_nb.data import ImageDataset, open_dataset
from prism_nb.device import choose_device, matrix_precision, median_seconds, timed_images
from prism_nb.plans.batches import Batch
from prism_nb.plans.synthesis import batch_of, chosen_engine
from prism_nb.recipes import Recipe
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.synthesis.augment import View, apply_views
from prism_nb.synthesis.gradient import Gradient
from prism_nb.synthesis.objective import Objective, weigh
from prism_nb.synthesis.quantise import encode_png, quantise
from prism_nb.synthesis.recover import draw_views
from prism_nb.synthesis.watch import Watch, watch
from prism_nb.teachers.pool import fresh_teacher
from prism_nb.teachers.selection import Draws, Team, unit_draws
from prism_nb.teachers.statistics import Statistics, conv_probes
from prism_nb.teachers.teacher import Teacher
from prism_nb.units import Unit

_PRIORS = ("tv_weight", "l2_weight", "density_weight")

Part = tuple[str, bool, bool]  # a network, whether it speaks, whether it aligns
Kind = tuple[Team, Team, int]  # who speaks and who aligns in a step, and its images


def unit_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take with the run's engine."""
    compiled = chosen_engine(run) == "compiled"
    timer = StepTimer(run.settings, open_dataset(run.settings), compiled=compiled)
    return [timer.unit_seconds(unit.key["method"], batch_of(unit)) for unit in units]


@dataclass
class StepTimer:
    """Times steps of a run's methods, each kind once.

    Args:
        settings: The run's.
        dataset: Its real images.
        compiled: Whether networks are compiled.
    """

    settings: Settings
    dataset: ImageDataset
    compiled: bool = False
    _teachers: dict[str, Teacher] = field(default_factory=dict)
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)

    def unit_seconds(self, method: str, batch: Batch) -> float:
        """Return the seconds that a unit will take, but for scoring real images to begin with."""
        with matrix_precision(self.settings.precision, self._device):
            return self._unit_cost(method, batch)

    @property
    def _device(self) -> torch.device:
        return choose_device(self.settings.device)

    def _measure(self, work: Callable[[], object]) -> float:
        """Return what some work costs here, in seconds; another measure would do as well."""
        return median_seconds(self._device, work)

    def _unit_cost(self, method: str, batch: Batch) -> float:
        recipe = self.settings.recipe_of(method).at_slot(batch.slots[0])
        size = len(batch.members())
        cost = size * self._image_cost()
        if recipe.images != "recovered":
            return cost
        for (speakers, team, active), steps in steps_of(self.settings, method, batch):
            cost += steps * active / size * self._step_cost(recipe, speakers, team, size)
        return cost

    def _step_cost(self, recipe: Recipe, speakers: Team, team: Team, size: int) -> float:
        timed = timed_images(self._device, size, size=self.settings.image_size)
        rest, shown = self._bare_cost(recipe, timed)
        parts = [(n, n in speakers, n in team) for n in dict.fromkeys([*speakers, *team])]
        cost = rest + sum(max(0.0, self._part_cost(recipe, p, timed) - shown) for p in parts)
        return cost * size / timed

    def _part_cost(self, recipe: Recipe, part: Part, size: int) -> float:
        """Time the gradient of one network in one role, the view included."""
        aligned = (recipe.statistics, recipe.conv_patch, recipe.conv_drop)
        key = (part, aligned, recipe.views, size)
        if key not in self._known:
            name, speaks, aligns = part
            images, labels, views = self._batch(recipe, size)
            alone = recipe.model_copy(update=dict.fromkeys(_PRIORS, 0.0))
            objective = Objective(alone, {name: self._watch(name, recipe, images)})
            gradient = Gradient(objective, self.settings.part)
            speakers, team = [name] * speaks, [name] * aligns
            self._known[key] = self._measure(
                lambda: gradient([images], views, labels, speakers=speakers, team=team)
            )
        return self._known[key]

    def _bare_cost(self, recipe: Recipe, size: int) -> tuple[float, float]:
        """Time a step without networks, and its view alone."""
        weighed = tuple(getattr(recipe, name) for name in _PRIORS)
        keys = [(what, recipe.views, weighed, size) for what in ("step", "view")]
        if keys[0] not in self._known:
            images, labels, views = self._batch(recipe, size)
            objective = Objective(recipe, {})
            optimiser = torch.optim.Adam([images])

            def show(*, with_priors: bool) -> None:
                view = apply_views(images, views)
                ends, slopes = [view], [torch.ones_like(view)]
                priors = objective.priors(images, view, labels) if with_priors else {}
                if priors:
                    total = weigh(priors, objective.weights([], []))
                    ends, slopes = [*ends, total], [*slopes, torch.ones_like(total)]
                torch.autograd.backward(ends, slopes)

            def step() -> None:
                show(with_priors=True)
                optimiser.step()

            self._known[keys[0]] = self._measure(step)
            self._known[keys[1]] = self._measure(lambda: show(with_priors=False))
        return self._known[keys[0]], self._known[keys[1]]

    def _image_cost(self) -> float:
        """Time what an image takes beside the steps: to round and to encode it."""
        if ("image",) not in self._known:
            noise = torch.randn(8, 3, self.settings.image_size, self.settings.image_size)

            def store() -> None:
                for pixels in quantise(self.dataset, noise, how="exact"):
                    encode_png(pixels)

            self._known["image",] = self._measure(store) / len(noise)
        return self._known["image",]

    def _batch(self, recipe: Recipe, size: int) -> tuple[Tensor, Tensor, list[View]]:
        side, device = self.settings.image_size, self._device
        generator = torch.Generator().manual_seed(0)
        images = self._noise((size, 3, side, side), generator)
        images = images.to(device, memory_format=torch.channels_last).requires_grad_()
        labels = torch.arange(size, device=device) % len(self.dataset.classes)
        return images, labels, draw_views(recipe, 0, (size, side), generator)

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator)

    def _watch(self, name: str, recipe: Recipe, images: Tensor) -> Watch:
        teacher, targets = self._teacher(name), None
        if recipe.statistics == "bn_conv":
            with torch.no_grad():
                probes = conv_probes(teacher.network, recipe.conv_patch)
                seen = teacher.statistics(images[:2], probes)
            targets = {p.name: Statistics(*s) for p, s in zip(probes, seen, strict=True)}
        return watch(
            teacher,
            recipe,
            conv_targets=targets,
            generator=torch.Generator().manual_seed(0),
            precision=self.settings.precision,
            compiled=self.compiled,
        )

    def _teacher(self, name: str) -> Teacher:
        if name not in self._teachers:
            self._teachers[name] = fresh_teacher(name, self.dataset, self._device)
        return self._teachers[name]


def steps_of(settings: Settings, method: str, batch: Batch) -> tuple[tuple[Kind, int], ...]:
    """Return which kinds of steps a unit takes, and how many of each."""
    recipe = settings.recipe_of(method).at_slot(batch.slots[0])
    joins = sorted(recipe.joins_at(slot, settings.ipc) for _, slot in batch.members())
    return _kinds(unit_draws(settings, method, batch), tuple(joins), recipe.iterations)


# Thousands of units share a few draws, and each has thousands of steps.
@lru_cache(maxsize=1024)
def _kinds(draws: Draws, joins: tuple[int, ...], iterations: int) -> tuple[tuple[Kind, int], ...]:
    kinds = Counter(
        (draws.logits_at(step), draws.at(step), bisect_right(joins, step))
        for step in range(joins[0], iterations)
    )
    return tuple(kinds.items())
