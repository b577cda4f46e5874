"""Differences between the losses of compiled and eager networks, against those of rounding.

The reference is the eager run begun from images that differ in their last bit: an
optimizer that divides by the size of its gradients makes such differences grow, step by step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prism_nb.core.recipe import load_recipe
from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.models.zoo import build_network
from prism_nb.synthesis.loop import ImageOptimizer, recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, build_stat_matcher
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_NETWORKS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0")
_STEPS, _COUNT, _SIZE = 50, 4, 32
_SHOWN = (1, 6, 11, 21, 50)  # steps


def agreement_rows() -> list[dict[str, Any]]:
    """Return the largest relative difference of any term, by step, for both comparisons."""
    torch.manual_seed(0)
    space = PreprocessConfig((0.5,) * 3, (0.25,) * 3, _SIZE)
    networks = {n: build_network(n, classes=10, image_size=_SIZE) for n in _NETWORKS}
    teachers = [Teacher(n, net, native=space, dataset=space) for n, net in networks.items()]
    images = torch.randn(_COUNT, 3, _SIZE, _SIZE)
    last_bit = torch.finfo(images.dtype).eps * torch.sign(torch.randn(images.shape))
    eager = _losses(teachers, images)
    others = {
        "compiled": _losses(teachers, images, compiled=True),
        "eager, images changed in the last bit": _losses(teachers, images * (1 + last_bit)),
    }
    return [_row(name, eager, losses) for name, losses in others.items()]


def _losses(teachers: list[Teacher], images: Tensor, *, compiled: bool = False) -> Tensor:
    """Return every term of every step, [steps, terms]; the drawn teachers change at every step."""
    recipe = load_recipe("prism", {"iterations": _STEPS, "r_bn": 0.1, "jitter": 4})
    matchers = {
        teacher.name: build_stat_matcher(teacher, recipe, compiled=compiled) for teacher in teachers
    }
    names = [f"{kind}/{name}" for kind in ("logit", "bn") for name in matchers]
    first, *others = _NETWORKS
    groups = (*((first, name) for name in others), (first,), (first, *others))
    optimizer = ImageOptimizer(
        images.clone(),
        torch.arange(_COUNT),
        backward=MicroBatchedBackward(Objective(recipe, matchers)),
        schedule=TeacherSchedule(1, groups, (first,)),
        recipe=recipe,
        pixel_bounds=(torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 2.0)),
        generator=torch.Generator().manual_seed(0),
    )
    rows: list[list[float]] = []
    recover(optimizer, [lambda _, losses: rows.append([float(losses.get(n, 0)) for n in names])])
    return torch.tensor(rows)


def _row(name: str, eager: Tensor, losses: Tensor) -> dict[str, Any]:
    apart = torch.where(eager == 0, 0, (losses - eager).abs() / eager.abs()).amax(1)
    by_step = {str(step): float(apart[step - 1]) for step in _SHOWN}
    shown = ", ".join(f"step {step} {value:.1e}" for step, value in by_step.items())
    print(f"{name:<40} at most {float(apart.max()):.1e}; {shown}", flush=True)
    return {"compared with eager": name, "most": float(apart.max()), "by_step": by_step}
