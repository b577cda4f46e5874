"""Phases of the optimization: sizes of the images, and the initial images mixed in (FADRM)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import Recipe

Residual = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Phases:
    """Phases of equal length, each with a size of the images.

    Where a phase begins, images x that began as x_0 become

        alpha resize(x) + (1 - alpha) resize(x_0)

    (data residual matching; Cui et al., FADRM, NeurIPS 2025, arXiv 2506.24125). RETA has real
    patches chosen for x in place of x_0 (`retrieval.py`).
    """

    starts: tuple[int, ...]  # first step of each phase, ascending from 0
    sizes: tuple[int, ...]  # side of the images in each phase, in pixels
    alpha: float  # share of the images that is kept, in [0, 1]; 1: all, so nothing is mixed in

    @classmethod
    def of(cls, recipe: Recipe, image_size: int) -> Self:
        """Return the phases of a recipe for images of a side, in pixels."""
        count = len(recipe.sizes)
        starts = tuple(recipe.iterations * phase // count for phase in range(count))
        sizes = tuple(round(size * image_size) for size in recipe.sizes)
        return cls(starts, sizes, recipe.residual_alpha)

    def first(self, initial: Tensor) -> Tensor:
        """Return the images [N, 3, S, S] of step 0 in the size of the first phase."""
        return resize(initial, self.sizes[0])

    def change(self, step: int, images: Tensor, residual: Residual) -> Tensor | None:
        """Return the images with which a phase begins, or None where they stay as they are.

        `step` is the phase's first, images are those after the step before [N, 3, s, s], and
        `residual` returns what is mixed into them, in full size.
        """
        size = self.sizes[self.starts.index(step)]
        if self.alpha == 1 and size == images.shape[-1]:
            return None
        rest = resize(residual(images), size)
        return self.alpha * resize(images, size) + (1 - self.alpha) * rest


def resize(images: Tensor, size: int) -> Tensor:
    """Return images in another size, by bilinear interpolation; the same if they have it."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear")
