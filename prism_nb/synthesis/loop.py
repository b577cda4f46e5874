"""The recover loop: images that frozen teachers come to recognise, one step at a time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from prism_nb.core.recipe import Recipe
from prism_nb.data.augment import AugParams, sample_augmentation
from prism_nb.models.checkpoint import (
    Stateful,
    cpu_copies,
    optimizer_tensors,
    restore_optimizer,
    strip_prefix,
)
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

OnStep = Callable[[int, dict[str, Tensor]], None]
OnImages = Callable[[int, Sequence[Tensor]], None]


class CheckpointHook(Protocol):
    """Where an interrupted optimisation goes on."""

    def recall(self, work: Stateful) -> None:
        """Put the state of an earlier call into the work, if there is one."""

    def offer(self, work: Stateful) -> None:
        """Keep the state as it is between two steps, if it is time to."""


def recover(
    initial: Tensor,
    labels: Tensor,
    *,
    gradient: MicroBatchedBackward,
    draws: TeacherSchedule,
    recipe: Recipe,
    bounds: tuple[Tensor, Tensor],
    generator: torch.Generator,
    on_step: OnStep,
    joins: Sequence[int] | None = None,
    look: OnImages | None = None,
    memory: CheckpointHook | None = None,
) -> Tensor:
    """Optimise a batch of images.

    Adam with a cosine to zero over the recipe's iterations; after each step the images are
    clamped to what 8-bit pixels can show.

    Args:
        initial: Canonical images to start from, [N, 3, H, W]; left unchanged.
        labels: Class indices [N].
        gradient: Of what the images are optimised for.
        draws: Which networks give their statistics at each step.
        recipe: Step size, iterations and augmentation.
        bounds: Canonical values of black and white, each [3, 1, 1].
        generator: Draws the views; on the CPU, so that devices see the same ones.
        on_step: Told the number of steps done and the named losses before the last.
        joins: The step from which each image takes part, ascending; all from the first if None.
            The cosine and the draws are those of the whole schedule, whenever the first joins.
        look: Shown the images at the start and after each step, group by group, with the number of
            steps done; it leaves them as they are.
        memory: From which an interrupted call goes on, with the same result as an undisturbed one.

    Returns:
        The optimised canonical images [N, 3, H, W].
    """
    work = _Recovery(initial, joins or [0] * len(initial), gradient, recipe, generator)
    if memory is not None:
        memory.recall(work)
    if look is not None:
        look(work.step, work.groups)
    while work.step < recipe.iterations:
        losses = work.advance(labels, draws, bounds)
        on_step(work.step, losses)
        if look is not None:
            look(work.step, work.groups)
        if memory is not None and work.step < recipe.iterations:
            memory.offer(work)
    return torch.cat([group.detach() for group in work.groups])


class _Recovery:
    """A batch of images on their way, and all that decides how they go on.

    Attributes:
        step: Steps that are done, of the whole schedule.
        groups: The images, by the step at which they join.
    """

    def __init__(
        self,
        initial: Tensor,
        joins: Sequence[int],
        gradient: MicroBatchedBackward,
        recipe: Recipe,
        generator: torch.Generator,
    ) -> None:
        self._begins, sizes = _groups(joins)
        self._gradient, self._recipe, self._generator = gradient, recipe, generator
        self.step = self._begins[0]
        self.groups = [images.clone().requires_grad_() for images in initial.split(sizes)]
        betas = (recipe.beta1, recipe.beta2)
        self._optimizer = torch.optim.Adam(self.groups, lr=recipe.lr, betas=betas)

    def advance(
        self, labels: Tensor, draws: TeacherSchedule, bounds: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Take one step and return the named losses before it."""
        active = self.groups[: bisect_right(self._begins, self.step)]
        count, size = sum(map(len, active)), active[0].shape[-1]
        losses = self._gradient(
            active,
            sample_augmentations(self._recipe, self.step, (count, size), self._generator),
            labels[:count],
            logit_teachers=draws.logit_teachers_at(self.step),
            bn_teachers=draws.at(self.step),
        )
        self._optimizer.param_groups[0]["lr"] = self._recipe.lr * self._cosine()
        self._optimizer.step()
        with torch.no_grad():
            for group in active:
                group.clamp_(*bounds)
        self.step += 1
        return losses

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors by name."""
        state = {f"images/{place}": group for place, group in enumerate(self.groups)}
        state |= optimizer_tensors(self._optimizer)
        state |= {f"gradient/{name}": value for name, value in self._gradient.tensors().items()}
        state["random"] = self._generator.get_state()
        return cpu_copies({"step": torch.tensor(self.step), **state})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state, whatever has been drawn since the work was begun."""
        self.step = int(tensors["step"])
        with torch.no_grad():
            for place, group in enumerate(self.groups):
                group.copy_(tensors[f"images/{place}"])
        restore_optimizer(self._optimizer, tensors)
        self._gradient.restore(strip_prefix(tensors, "gradient"))
        self._generator.set_state(tensors["random"])

    def _cosine(self) -> float:
        return (1 + math.cos(math.pi * self.step / self._recipe.iterations)) / 2


def sample_augmentations(
    recipe: Recipe, step: int, batch: tuple[int, int], generator: torch.Generator
) -> list[AugParams]:
    """Draw a step's views of a batch (images, their side): one for all, or one for each."""
    count, size = batch
    crop_min = min_crop_area(recipe, step)
    return [
        sample_augmentation(
            size,
            crop_min=crop_min,
            flip=recipe.flip,
            jitter=recipe.jitter,
            generator=generator,
        )
        for _ in range(count if recipe.views == "per_image" else 1)
    ]


def _groups(joins: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return at which steps groups of images join, and how many images each has."""
    found = [(begin, len(list(members))) for begin, members in groupby(joins)]
    return [begin for begin, _ in found], [size for _, size in found]


def min_crop_area(recipe: Recipe, step: int) -> float:
    """Return the smallest share of the area that a step's crop may have.

    The curriculum falls from 1 to `crop_min` along half a cosine over all steps:
    crop_min + (1 - crop_min) (1 + cos(pi t / T)) / 2 (CDA, section 3, with its milestone at 1).

    Args:
        recipe: The method.
        step: The step, 0 ... iterations - 1.
    """
    if recipe.crop_schedule == "fixed":
        return recipe.crop_min
    falling = (1 + math.cos(math.pi * step / recipe.iterations)) / 2
    return recipe.crop_min + (1 - recipe.crop_min) * falling
