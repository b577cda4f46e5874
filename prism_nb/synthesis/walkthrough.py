"""A walk through the optimization of one image of each of a few classes, with terms left out.

The images are a unit of the run's own `prism` recipe with an IPC of 1 and fewer steps, and nothing
is written. Every network of the pool is a BN teacher, where PRISM draws some of them, so that all
can be compared; the variants of `VARIANTS` differ in the weights of the BN terms alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.core.units import Unit
from prism_nb.data.registry import open_dataset
from prism_nb.synthesis.init import prepare_unit
from prism_nb.synthesis.loop import ImageOptimizer, recover
from prism_nb.synthesis.stage import unit_backward, unit_optimizer
from prism_nb.synthesis.teacher_sampling import teacher_schedule

METHOD = "prism"
VARIANTS = {
    "logits": "logits of the primary alone",
    "primary": "and BN statistics of the primary",
    "pool": "and BN statistics of all networks",
}
MAX_CLASSES = 10
_MAX_STEPS = 100
_SHOWN = (0.0, 0.05, 0.15, 0.4, 1.0)  # shares of the steps


@dataclass(frozen=True)
class Frame:
    """The images after so many steps."""

    step: int  # the number of steps
    images: Tensor  # uint8 [n, 3, S, S], an image of each class, on the CPU
    # What each weighted term adds to the gradient of the next step, by its name: canonical [n, 3,
    # S, S] on the CPU
    gradients: dict[str, Tensor]
    losses: dict[str, float]  # the unweighted terms of the step before, by name; empty at first


def walked_classes(run: Run) -> range:
    """Return the indices of the classes whose images are optimized: the first, ten at most."""
    _, unit = _view(run, "pool")
    return range(*batch_of(unit).classes)


@lru_cache(maxsize=2 * len(VARIANTS))
def walk(run: Run, variant: str) -> tuple[Frame, ...]:
    """Optimize one image of each of the first classes, ten at most, by a name of `VARIANTS`.

    Raises:
        PrismError: A network is not trained.
    """
    view, unit = _view(run, variant)
    dataset, frames = open_dataset(view.settings), list[Frame]()
    start, schedule = (
        prepare_unit(view, unit),
        teacher_schedule(view.settings, METHOD, batch_of(unit)),
    )
    backward, _ = unit_backward(view, unit, start, schedule)
    optimizer = unit_optimizer(view, unit, start, schedule, backward)
    shown = {round(share * optimizer.total_steps) for share in _SHOWN}

    def keep(optimizer: ImageOptimizer, losses: dict[str, Tensor]) -> None:
        if optimizer.step in shown:
            gradients = {term: torch.cat(parts).cpu() for term, parts in optimizer.gradients()}
            values = {term: loss.item() for term, loss in losses.items()}
            pixels = dataset.to_uint8(optimizer.images).cpu()
            frames.append(Frame(optimizer.step, pixels, gradients, values))

    keep(optimizer, {})
    recover(optimizer, [keep])
    return tuple(frames)


def _view(run: Run, variant: str) -> tuple[Run, Unit]:
    """Return the run with the settings of a variant, and its first unit."""
    view = Run(run.path, _settings(run.settings, variant))
    return view, method_units(view, METHOD, len(open_dataset(view.settings).classes))[0]


def _settings(settings: Settings, variant: str) -> Settings:
    """Return a run's settings with one image per class, and the BN terms of a variant."""
    recipe, networks = settings.recipe_of(METHOD), settings.pool.bn
    others = {name: 0.0 for name in networks if name != settings.primary}
    weights: dict[str, dict[str, Any]] = {
        "logits": {"r_bn": 0.0},
        "primary": {"r_bn": len(networks) * recipe.r_bn, "bn_weights": others},
        "pool": {},
    }
    changes = {
        **settings.recipes.get(METHOD, {}),
        "selection": "all",
        "early_late_step": 0,
        "iterations": min(recipe.iterations, _MAX_STEPS),
        **weights[variant],
    }
    return settings.replace(
        methods=[METHOD],
        ipc=1,
        batch_size=MAX_CLASSES,
        micro_batch_size="auto",
        recipes={METHOD: changes},
    )
