"""Objectives of small steps, and the literal float64 formula that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.data.augment import AugParams
from prism_nb.models.layer_stats import MeanVar, conv_layer_stats
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.loop import ImageOptimizer
from prism_nb.synthesis.micro_batch import MicroBatchedBackward, StepInputs
from prism_nb.synthesis.objective import Objective, StatMatcher, build_stat_matcher
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from tests.helpers.teachers import layer_inputs, teacher_of

LABELS = torch.tensor([3, 1, 4, 1])
PATCH = 5  # divides no feature map of a 24-pixel image, so that all of them are resized


def prism(**changes: object) -> Recipe:
    """Return PRISM's recipe without augmentation."""
    plain = {"iterations": 4, "lr": 0.1, "r_bn": 0.3, "flip": False, "jitter": 0, "crop_min": 1.0}
    return load_recipe("prism", {**plain, **changes})


def gvbsm(**changes: object) -> Recipe:
    """Return G-VBSM's recipe without what is random or kept between steps."""
    plain = {"conv_drop_prob": 0.0, "stats_ema": 0.0, "densification_weight": 0.0}
    return load_recipe("gvbsm", {"conv_patch_size": PATCH, "r_bn": 0.3, **plain, **changes})


def conv_stats_of(teacher: Teacher, size: int = 24) -> dict[str, MeanVar]:
    """Return statistics of other images as targets."""
    torch.manual_seed(7)
    images = torch.randn(3, 3, size, size, dtype=next(teacher.parameters()).dtype)
    stats = conv_layer_stats(teacher.network, PATCH)
    _, values = teacher.forward_with_stats(images, stats)
    return {s.name: MeanVar(v.mean + 0.1, v.var * 1.5) for s, v in zip(stats, values, strict=True)}


def matcher_of(teacher: Teacher, recipe: Recipe, *, seed: int = 0, size: int = 24) -> StatMatcher:
    """Return the matched statistics of a teacher."""
    return build_stat_matcher(
        teacher,
        recipe,
        conv_stats=conv_stats_of(teacher, size) if recipe.statistics == "bn_conv" else None,
        generator=torch.Generator().manual_seed(seed),
    )


def objective_of(recipe: Recipe, *teachers: Teacher, seed: int = 0) -> Objective:
    """Return an objective over the given teachers, without scales."""
    return Objective(recipe, {t.name: matcher_of(t, recipe, seed=seed) for t in teachers})


def identity(images: Tensor) -> AugParams:
    """Return the augmentation that changes nothing."""
    return AugParams((0, 0, *images.shape[-2:]))


class StepResult:
    """Value, gradient and terms of one step, by the path that optimizes images.

    Args:
        backward: The backward pass.
        images: Images [N, 3, H, W].
        logit_teachers: Names of F.
        bn_teachers: Names of T.
        labels: Class indices [N].
        aug_params: The augmentation; None: none.
    """

    def __init__(
        self,
        backward: MicroBatchedBackward,
        images: Tensor,
        logit_teachers: Sequence[str],
        bn_teachers: Sequence[str],
        labels: Tensor = LABELS,
        aug_params: AugParams | None = None,
    ) -> None:
        leaf = images.detach().clone().requires_grad_()
        aug, labels = aug_params or identity(images), labels[: len(images)]
        self.losses = backward(StepInputs([leaf], [aug], labels, logit_teachers, bn_teachers))
        # The weights that the gradient was made with.
        weights = backward._objective.weights(logit_teachers, bn_teachers)
        self.value = sum(weights[name] * loss.item() for name, loss in self.losses.items())
        assert leaf.grad is not None
        self.gradient = leaf.grad


def step_of(
    objective: Objective,
    images: Tensor,
    logit_teachers: Sequence[str],
    bn_teachers: Sequence[str],
    *,
    size: int = 0,
    labels: Tensor = LABELS,
) -> StepResult:
    """Return a step on whole batches, or on micro-batches of a size."""
    backward = MicroBatchedBackward(objective, size)
    return StepResult(backward, images, logit_teachers, bn_teachers, labels)


# -- the optimization --------------------------------------------------------------------------

NAMES = ("test_resnet", "test_byobnet")
BOUND = 1.5  # of pixels
_BOTH = TeacherSchedule(100, (NAMES,), NAMES[:1])


def initial_of() -> Tensor:
    """Return four images within the bounds, float64."""
    torch.manual_seed(2)
    return torch.randn(4, 3, 32, 32, dtype=torch.float64).clamp(-BOUND, BOUND)


def optimizer_of(
    recipe: Recipe,
    initial: Tensor,
    *,
    part: int = 0,
    schedule: TeacherSchedule = _BOTH,
    **options: Any,
) -> ImageOptimizer:
    """Return images in optimization by two teachers, on micro-batches of `part`."""
    teachers = [teacher_of(name, double=initial.dtype == torch.float64) for name in NAMES]
    bound = torch.full((3, 1, 1), BOUND)
    return ImageOptimizer(
        initial,
        LABELS[: len(initial)],
        backward=MicroBatchedBackward(objective_of(recipe, *teachers), part),
        schedule=schedule,
        recipe=recipe,
        pixel_bounds=(-bound, bound),
        generators=[torch.Generator().manual_seed(0)],
        **options,
    )


# -- the literal formula ------------------------------------------------------------------------


def literal_channels(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel by explicit sums."""
    count = values.shape[0] * values.shape[2] * values.shape[3]
    mean = values.sum(dim=(0, 2, 3)) / count
    return mean, (values - mean[None, :, None, None]).pow(2).sum(dim=(0, 2, 3)) / count


def resize(values: Tensor, height: int, width: int) -> Tensor:
    """Resample maps bilinearly, pixel centres on pixel centres, one axis after the other."""
    for axis, side in ((2, height), (3, width)):
        old = values.shape[axis]
        at = [min(max((i + 0.5) * old / side - 0.5, 0), old - 1) for i in range(side)]
        low = [int(position) for position in at]
        high = [min(index + 1, old - 1) for index in low]
        share = torch.tensor([a - b for a, b in zip(at, low, strict=True)], dtype=values.dtype)
        share = share.view(-1, *[1] * (3 - axis))
        lower = values.index_select(axis, torch.tensor(low))
        upper = values.index_select(axis, torch.tensor(high))
        values = lower * (1 - share) + upper * share
    return values


def literal_patches(values: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per patch by explicit loops."""
    rows, columns = math.ceil(values.shape[2] / side), math.ceil(values.shape[3] / side)
    values = resize(values, rows * side, columns * side)
    means, variances = [], []
    for i in range(rows):
        for j in range(columns):
            patch = values[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side]
            mean = patch.sum() / patch.numel()
            means.append(mean)
            variances.append((patch - mean).pow(2).sum() / patch.numel())
    return torch.stack(means), torch.stack(variances)


def literal_terms(
    images: Tensor,
    teacher: Teacher,
    *,
    conv_stats: Mapping[str, MeanVar] | None = None,
    first: float = 10.0,
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and A_k of one network, module by module."""
    kinds = nn.BatchNorm2d if conv_stats is None else nn.BatchNorm2d | nn.Conv2d
    modules = {n: m for n, m in teacher.network.named_modules() if isinstance(m, kinds)}
    logits, inputs = layer_inputs(teacher.network, list(modules.values()), images)
    total = torch.zeros((), dtype=torch.float64)
    for number, ((name, module), values) in enumerate(zip(modules.items(), inputs, strict=True)):
        mean, var = literal_channels(values)
        if isinstance(module, nn.BatchNorm2d):
            pairs = [(mean, module.running_mean), (var, module.running_var)]
        else:
            channels, patches = conv_stats[f"{name}.channels"], conv_stats[f"{name}.patches"]
            patch_mean, patch_var = literal_patches(values, PATCH)
            pairs = [(mean, channels.mean), (var, channels.var)]
            pairs += [(patch_mean, patches.mean), (patch_var, patches.var)]
        norms = sum((batch - real).pow(2).sum().sqrt() for batch, real in pairs)
        total = total + (first if number == 0 else 1.0) * norms
    labels = LABELS[: len(images)]
    picked = logits[range(len(labels)), labels]
    return (logits.exp().sum(1).log() - picked).sum() / len(labels), total


def literal_objective(images: Tensor, primary: Teacher, bn: list[Teacher], r_bn: float) -> Tensor:
    """Return PRISM's loss by its formula."""
    entropy, _ = literal_terms(images, primary)
    return entropy + r_bn / len(bn) * sum(literal_terms(images, t)[1] for t in bn)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected tensor."""
    return float((found - expected).norm() / expected.norm())
