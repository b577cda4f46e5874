"""Micro-batching: parts of a batch give the gradient of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.data.augment import AugParams, augment
from prism_nb.models.layer_stats import MeanVar, conv_layer_stats
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, build_stat_matcher
from tests.helpers.teachers import ARCHITECTURES, teacher_of

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
VIEW = AugParams((2, 3, 25, 27), flip=True, shift=(1, 4))


def objective_of(recipe: Recipe, names: list[str], *, double: bool) -> Objective:
    matchers = {}
    for name in names:
        teacher = teacher_of(name, double=double)
        targets = None
        if recipe.statistics == "bn_conv":
            probes = conv_layer_stats(teacher.network, recipe.conv_patch_size)
            seen = teacher.forward_with_stats(images_of(double=double), probes)[1]
            targets = {
                p.name: MeanVar(s.mean.detach() + 0.1, 2 * s.var.detach())
                for p, s in zip(probes, seen, strict=True)
            }
        generator = torch.Generator().manual_seed(3)
        matchers[name] = build_stat_matcher(
            teacher, recipe, conv_targets=targets, generator=generator
        )
    return Objective(recipe, matchers, {names[0]: 0.5})


def images_of(*, double: bool) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(len(LABELS), 3, 32, 32, generator=generator)
    return images.double() if double else images


def both(
    recipe: Recipe,
    names: list[str],
    size: int,
    *,
    double: bool,
    logit_teachers: list[str] | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Take two steps whole and in parts; return the second's gradients and terms."""
    results: list[tuple[Tensor, dict[str, Tensor]]] = []
    roles = {"logit_teachers": logit_teachers or names[:1], "team": names}
    for in_parts in (False, True):
        objective = objective_of(recipe, names, double=double)
        images = images_of(double=double).requires_grad_()
        for _ in range(2):  # the second sees the running means that the first has left
            images.grad = None
            if in_parts:
                losses = MicroBatchedBackward(objective, size)([images], [VIEW], LABELS, **roles)
            else:
                losses = objective.terms(images, augment(images, [VIEW]), LABELS, **roles)
                objective.total(losses).backward()
        assert images.grad is not None
        results.append((images.grad, losses))
    (whole, terms), (parts, part_terms) = results
    return whole, parts, terms, part_terms


def relative(parts: Tensor, whole: Tensor) -> float:
    return float((parts - whole).norm() / whole.norm())


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 3) for name in ARCHITECTURES), *(("test_byobnet", n) for n in (0, 1, 2, 7, 50))],
)
def test_parts_give_the_gradient_and_the_terms_of_the_whole_batch(name: str, size: int) -> None:
    recipe = load_recipe("prism", {"r_bn": 0.3})
    names = ["test_resnet", name]
    whole, parts, terms, part_terms = both(recipe, names, size, double=True)
    assert relative(parts, whole) < 1e-9
    assert terms.keys() == part_terms.keys()
    for key, value in terms.items():
        assert part_terms[key].item() == pytest.approx(value.item(), rel=1e-9)
        assert not part_terms[key].requires_grad


@pytest.mark.parametrize(
    "changes",
    [
        {"tv_l1": 0.2, "l2_scale": 0.1, "densification_weight": 1e-3},
        {"statistics": "bn_conv", "conv_patch_size": 4},
        {"statistics": "bn_conv", "conv_patch_size": 4, "conv_drop_prob": 0.5, "stats_ema": 0.4},
        {"stats_ema": 0.8},
        {"r_bn": 0.0},
    ],
)
def test_every_term_survives_the_parts(changes: dict[str, Any]) -> None:
    recipe = load_recipe("prism", {"r_bn": 0.3, **changes})
    names = ["test_resnet", "test_efficientnet"]
    whole, parts, terms, part_terms = both(recipe, names, 2, double=True)
    assert relative(parts, whole) < 1e-9
    assert {k: v.item() for k, v in part_terms.items()} == pytest.approx(
        {k: v.item() for k, v in terms.items()}, rel=1e-9
    )


def test_coupled_networks_and_those_that_only_speak_survive_the_parts() -> None:
    recipe = load_recipe("prism", {"r_bn": 0.3})
    logit_teachers = ["test_byobnet", "test_resnet"]
    for names in (["test_resnet", "test_byobnet"], ["test_efficientnet", *logit_teachers]):
        whole, parts, _, _ = both(recipe, names, 3, double=True, logit_teachers=logit_teachers)
        assert relative(parts, whole) < 1e-9


def test_in_single_precision_the_error_stays_small() -> None:
    whole, parts, _, _ = both(
        load_recipe("prism", {"r_bn": 0.3}),
        ["test_resnet", "test_byobnet"],
        2,
        double=False,
    )
    assert relative(parts, whole) < 1e-3


def test_parts_taken_for_wholes_would_be_wrong() -> None:
    """The sum of the parts' own gradients is not the whole's: what the two passes are for."""
    recipe = load_recipe("prism", {"r_bn": 0.3})
    names = ["test_resnet"]
    whole, _, _, _ = both(recipe, names, 7, double=True)
    objective = objective_of(recipe, names, double=True)
    images = images_of(double=True).requires_grad_()
    view = augment(images, [VIEW])
    for part, labels in zip(view.split(2), LABELS.split(2), strict=True):
        losses = objective.terms(images, part, labels, logit_teachers=names, bn_teachers=names)
        (objective.total(losses) * len(part) / len(view)).backward(retain_graph=True)
    assert images.grad is not None
    assert relative(images.grad, whole) > 1e-2


def test_memory_that_runs_out_halves_the_parts_until_they_fit() -> None:
    recipe = load_recipe("prism", {"r_bn": 0.3})
    objective = objective_of(recipe, ["test_resnet"], double=True)
    roles = {"logit_teachers": ["test_resnet"], "team": ["test_resnet"]}
    whole = images_of(double=True).requires_grad_()
    MicroBatchedBackward(objective)([whole], [VIEW], LABELS, **roles)
    network = objective.matchers[0].sight.teacher.network
    network.register_forward_pre_hook(too_large)
    images = images_of(double=True).requires_grad_()
    gradient = MicroBatchedBackward(objective)
    gradient([images], [VIEW], LABELS, **roles)
    assert gradient.part == 2  # 7, 4, 2
    assert images.grad is not None
    assert whole.grad is not None
    assert relative(images.grad, whole.grad) < 1e-9


def too_large(_: object, inputs: tuple[Tensor, ...]) -> None:
    if len(inputs[0]) > 2:
        raise torch.OutOfMemoryError("no more")


def test_a_step_that_is_tried_again_draws_and_remembers_once() -> None:
    """Else the running means would move twice, and all later draws would shift."""
    changes = {
        "statistics": "bn_conv",
        "conv_patch_size": 4,
        "conv_drop_prob": 0.5,
        "stats_ema": 0.4,
    }
    recipe = load_recipe("prism", {"r_bn": 0.3, **changes})
    roles = {"logit_teachers": ["test_resnet"], "team": ["test_resnet"]}
    gradients = []
    for fails in (False, True):
        objective = objective_of(recipe, ["test_resnet"], double=True)
        images = images_of(double=True).requires_grad_()
        gradient = MicroBatchedBackward(objective)
        for step in range(3):
            if fails and step == 1:
                network = objective.matchers[0].sight.teacher.network
                network.layer4.register_forward_pre_hook(too_large)
            gradient([images], [VIEW], LABELS, **roles)
        assert images.grad is not None
        gradients.append(images.grad)
        assert gradient.part == (2 if fails else 0)
    assert relative(gradients[1], gradients[0]) < 1e-9


def test_other_failures_are_not_taken_for_a_lack_of_memory() -> None:
    objective = objective_of(load_recipe("prism"), ["test_resnet"], double=True)
    images = images_of(double=True).requires_grad_()
    with pytest.raises((RuntimeError, IndexError), match="(?i)target|size"):
        MicroBatchedBackward(objective)(
            [images],
            [VIEW],
            LABELS + 99,
            logit_teachers=["test_resnet"],
            bn_teachers=["test_resnet"],
        )
