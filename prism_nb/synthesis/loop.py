"""The optimization of a unit's images: Adam steps under a schedule of teachers.

A step costs one forward and one backward pass of each of its teachers, one after the other
(`micro_batch.py`). The backward pass leads to the images and not to the weights. A BN teacher that
gives no logits ends behind its last matched layer. Micro-batches add a forward pass of each BN
teacher, for the statistics of the whole batch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, groupby, islice
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.recipe import Recipe
from prism_nb.data.augment import AugParams, sample_augmentation
from prism_nb.synthesis.micro_batch import Backward, StepInputs
from prism_nb.synthesis.phases import Phases, Residual, resize
from prism_nb.synthesis.teacher_sampling import TeacherSchedule


class ImageOptimizer:
    """A batch of images in optimization, with all state that decides the remaining steps.

    Adam with a cosine step size to zero over the recipe's iterations, or a constant one; after each
    step the images are clamped to what 8-bit pixels can hold, if the recipe does. Where a phase of
    the recipe changes them, Adam begins anew. Weight decay is AdamW's, of the images' difference
    from what they began as: x <- x - lr decay (x - x_0) before each step.

    Args:
        initial: Canonical images [N, 3, H, W]; left unchanged. Noise may exceed the pixel bounds
            until an image's first step.
        labels: Class indices [N].
        backward: Computes the loss and its gradient.
        schedule: The teachers of each step.
        recipe: Step size, iterations and augmentation.
        pixel_bounds: Canonical values of black and white, each [3, 1, 1].
        generators: CPU generator of the augmentations, or one for each image's own.
        start_steps: First step of each image, ascending (DELT); None: 0 for all. Step size and
            schedule are counted from step 0 for every image.
        residual: What is mixed into the images where a phase begins; None: what they began as.

    Attributes:
        step: Steps done, counted over the whole schedule.
        groups: The images in the size of their phase, grouped by their first step; leaf tensors.
    """

    def __init__(
        self,
        initial: Tensor,
        labels: Tensor,
        *,
        backward: Backward,
        schedule: TeacherSchedule,
        recipe: Recipe,
        pixel_bounds: tuple[Tensor, Tensor],
        generators: Sequence[torch.Generator],
        start_steps: Sequence[int] | None = None,
        residual: Residual | None = None,
    ) -> None:
        self._labels, self._backward, self._schedule = labels, backward, schedule
        self._recipe, self._pixel_bounds = recipe, pixel_bounds
        self._generators = list(generators)
        counts = {
            first: len(list(images)) for first, images in groupby(start_steps or [0] * len(initial))
        }
        self._start_steps = list(counts)
        self.step = self._start_steps[0]
        self._initial, self._phases = initial, Phases.of(recipe, initial.shape[-1])
        self._residual = residual or (lambda _: initial)
        self._begin(self._phases.first(initial).split(list(counts.values())))

    @property
    def total_steps(self) -> int:
        """Steps of the whole schedule."""
        return self._recipe.iterations

    @property
    def images(self) -> Tensor:
        """The canonical images [N, 3, H, W]."""
        return torch.cat([group.detach() for group in self.groups])

    def take_step(self) -> dict[str, Tensor]:
        """Update the images once and return the unweighted loss terms before the update.

        Where the next step begins a phase, the images are then those that it begins with.
        """
        step = self._sample_inputs()
        losses = self._backward(step)
        self._adam.param_groups[0]["lr"] = self._lr
        if self._recipe.weight_decay:
            self._decay()
        self._adam.step()  # leaves out groups without a gradient, which have not started
        if self._recipe.clamp:
            with torch.no_grad():
                for group in step.groups:
                    group.clamp_(*self._pixel_bounds)
        self.step += 1
        if self.step in self._phases.starts:
            changed = self._phases.change(self.step, self.images, self._residual)
            if changed is not None:
                self._begin(changed.split([len(group) for group in self.groups]))
        return losses

    @property
    def _lr(self) -> float:
        """The learning rate of the next step."""
        if self._recipe.lr_schedule == "constant":
            return self._recipe.lr
        return self._recipe.lr * (1 + math.cos(math.pi * self.step / self.total_steps)) / 2

    @torch.no_grad()
    def _decay(self) -> None:
        """Move the active images towards what they began as."""
        began = resize(self._initial, self.groups[0].shape[-1])
        counts = [len(group) for group in self.groups]
        for group, initial in zip(self._active, began.split(counts), strict=False):
            group.lerp_(initial, self._lr * self._recipe.weight_decay)

    def _begin(self, groups: Sequence[Tensor]) -> None:
        """Optimize images, in groups, by a new Adam."""
        self.groups = [images.detach().clone().requires_grad_() for images in groups]
        betas = (self._recipe.beta1, self._recipe.beta2)
        self._adam = torch.optim.Adam(self.groups, lr=self._recipe.lr, betas=betas)

    def gradients(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield each teacher term's part in the next step's gradient; changes nothing.

        See `Backward.gradients`.
        """
        before = self._random_states()
        step = self._sample_inputs()
        self._set_random_states(before)
        return self._backward.gradients(step)

    @property
    def _active(self) -> list[Tensor]:
        """The groups that have started."""
        return self.groups[: bisect_right(self._start_steps, self.step)]

    def _sample_inputs(self) -> StepInputs:
        """Sample the augmentation of the next step, and return all inputs of its loss."""
        active, schedule = self._active, self._schedule
        count, size = sum(map(len, active)), self.groups[0].shape[-1]
        return StepInputs(
            active,
            sample_augmentations(self._recipe, self.step, count, size, self._generators),
            self._labels[:count],
            schedule.logit_teachers_at(self.step),
            schedule.bn_teachers_at(self.step),
        )

    def _random_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _set_random_states(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the generator's included."""
        return {
            "step": self.step,
            "images": [group.detach() for group in self.groups],
            "adam": self._adam.state_dict(),
            "backward": self._backward.state_dict(),
            "rng": self._random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.step = state["step"]
        self._begin([images.to(self._initial.device) for images in state["images"]])
        self._adam.load_state_dict(state["adam"])
        self._backward.load_state_dict(state["backward"])
        self._set_random_states(state["rng"])


Callback = Callable[[ImageOptimizer, dict[str, Tensor]], None]


def recover(optimizer: ImageOptimizer, callbacks: Sequence[Callback] = ()) -> Tensor:
    """Take all remaining steps and return the optimized canonical images [N, 3, H, W].

    Callbacks are called in order after each step, with the unweighted loss terms before the update.
    They must not change the images.
    """
    while optimizer.step < optimizer.total_steps:
        losses = optimizer.take_step()
        for callback in callbacks:
            callback(optimizer, losses)
    return optimizer.images


def sample_augmentations(
    recipe: Recipe, step: int, count: int, size: int, generators: Sequence[torch.Generator]
) -> list[AugParams]:
    """Sample a step's augmentation of `count` images of side `size`: one for all, or one each.

    There is one generator for all images, or one for each.
    """
    crop_min = min_crop_area(recipe, step)
    return [
        sample_augmentation(
            size,
            crop_min=crop_min,
            flip=recipe.flip,
            jitter=recipe.jitter,
            generator=generator,
            crop_pad=recipe.crop_pad,
            cutout=recipe.cutout,
        )
        for generator in islice(cycle(generators), count if recipe.views == "per_image" else 1)
    ]


def min_crop_area(recipe: Recipe, step: int) -> float:
    """Return the smallest crop of a step (0 ... iterations - 1), as a share of the image's area.

    The curriculum falls from 1 to `crop_min` along half a cosine over all steps:
    crop_min + (1 - crop_min) (1 + cos(pi t / T)) / 2 (CDA, section 3, with its milestone at 1).
    """
    if recipe.crop_schedule == "fixed":
        return recipe.crop_min
    falling = (1 + math.cos(math.pi * step / recipe.iterations)) / 2
    return recipe.crop_min + (1 - recipe.crop_min) * falling
