"""The loss of images whose tiles are to have the features of real images, and its gradient.

    L(x) = sum over the tiles t of x of mean |f(v(up(t))) - f(v(r_t))|

Here r_t is the real image behind a tile t, `up` enlarges a tile to the full size, v is a random
view that both share, f gives features of the middle of a network, and the mean is over these (CIM;
Shang et al., ECCV 2026, arXiv 2607.00916, and its code). The loss of a batch is the sum over its
images, which makes each independent of the others; the mean over images is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.recipe import Recipe
from prism_nb.data.augment import AugParams, augment
from prism_nb.models.runner import TeacherRunner
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective
from prism_nb.synthesis.phases import resize


class FeatureBackward(MicroBatchedBackward):
    """Backward pass of the distance of features within the device's memory.

    Args:
        recipe: The method.
        runners: Every network of the unit, by name.
        real: The real images behind the tiles, canonical [N, grid * grid, 3, S, S], those of an
            image in reading order.
        micro_batch_size: Tiles per forward pass, at least those of one image; 0: all.
    """

    def __init__(
        self,
        recipe: Recipe,
        runners: Mapping[str, TeacherRunner],
        real: Tensor,
        micro_batch_size: int = 0,
    ) -> None:
        super().__init__(Objective(recipe, {}), micro_batch_size)
        self._runners, self._real = runners, real

    def __call__(
        self,
        groups: Sequence[Tensor],
        aug_params: list[AugParams],
        labels: Tensor,
        logit_teachers: Sequence[str],
        bn_teachers: Sequence[str],
    ) -> dict[str, Tensor]:
        """Compute a step's loss and set the gradients of the images.

        Arguments and result are those of the base; the logit teacher gives the features, and the
        loss is named after it.
        """
        (name,) = logit_teachers
        views = aug_params if len(aug_params) == len(labels) else aug_params * len(labels)
        tiles = len(labels) * self._real.shape[1]
        work = lambda: {f"features/{name}": self._mean_loss(name, groups, views)}  # noqa: E731
        return self._within_memory(groups, tiles, work)

    def gradient_norms(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return none, since the loss is one term, whose share of the gradient is 1."""
        return {}

    def _mean_loss(self, name: str, groups: Sequence[Tensor], views: Sequence[AugParams]) -> Tensor:
        images = torch.cat([group.detach() for group in groups])
        gradient, total = torch.zeros_like(images), images.new_zeros(())
        tiles = self._real.shape[1]
        size = max(1, (self.micro_batch_size or tiles * len(images)) // tiles)
        for start in range(0, len(images), size):
            part = slice(start, min(start + size, len(images)))
            leaf = images[part].requires_grad_()
            loss = feature_loss(self._runners[name], leaf, self._real[part], views[part])
            (gradient[part],) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
        for group, own in zip(groups, gradient.split([len(g) for g in groups]), strict=True):
            group.grad = own
        return total / len(images)


def feature_loss(
    runner: TeacherRunner, images: Tensor, real: Tensor, views: Sequence[AugParams]
) -> Tensor:
    """Return the loss of images [n, 3, S, S], a scalar, with one view for each.

    `real` are the real images behind their tiles [n, grid * grid, 3, S, S].
    """
    count, size = real.shape[1], real.shape[-1]
    shared = [view for view in views for _ in range(count)]
    see = lambda x: augment(x, shared).contiguous(memory_format=torch.channels_last)  # noqa: E731
    with torch.no_grad():
        expected = runner.middle_features(see(real.flatten(0, 1)))
    tiles = resize(cut_tiles(images, math.isqrt(count)), size)
    return (runner.middle_features(see(tiles)) - expected).abs().flatten(1).mean(1).sum()


def cut_tiles(images: Tensor, grid: int) -> Tensor:
    """Cut images [n, 3, S, S] into tiles [n * grid * grid, 3, s, s], in reading order."""
    side = images.shape[-1] // grid
    tiles = images.unflatten(-1, (grid, side)).unflatten(-3, (grid, side))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
