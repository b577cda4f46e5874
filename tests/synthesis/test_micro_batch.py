"""Micro-batches: two passes give the gradient of the whole batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prism_nb.core.recipe import load_recipe
from prism_nb.data.augment import AugParams, augment
from prism_nb.synthesis.micro_batch import MicroBatchedBackward, StepInputs
from prism_nb.synthesis.objective import Objective
from tests.helpers.objectives import LABELS as FOUR
from tests.helpers.objectives import (
    PATCH,
    StepResult,
    literal_terms,
    matcher_of,
    relative_error,
)
from tests.helpers.teachers import teacher_of

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
AUG = AugParams((2, 3, 25, 27), flip=True, shift=(1, 4))
CONV = {"statistics": "bn_conv", "conv_patch_size": PATCH}


def objective_of(names: list[str], *, double: bool = True, **changes: Any) -> Objective:
    recipe = load_recipe("prism", {"r_bn": 0.3, **changes})
    matchers = {n: matcher_of(teacher_of(n, double=double), recipe, seed=3, size=32) for n in names}
    return Objective(recipe, matchers, {names[0]: 0.5})


def images_of(*, double: bool = True) -> Tensor:
    images = torch.randn(len(LABELS), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return images.double() if double else images


def second_step(
    names: list[str], size: int, *, logit: list[str] | None = None, **changes: Any
) -> StepResult:
    """Take two steps; the second depends on running means that the first has left."""
    double = changes.pop("double", True)
    backward = MicroBatchedBackward(objective_of(names, double=double, **changes), size)
    images = images_of(double=double)
    for _ in range(2):
        found = StepResult(backward, images, logit or names[:1], names, LABELS, AUG)
    return found


def assert_same(found: StepResult, whole: StepResult, tolerance: float = 1e-9) -> None:
    assert relative_error(found.gradient, whole.gradient) < tolerance
    assert {k: v.item() for k, v in found.losses.items()} == pytest.approx(
        {k: v.item() for k, v in whole.losses.items()}, rel=tolerance
    )
    assert not any(loss.requires_grad for loss in found.losses.values())


@pytest.mark.parametrize(
    ("name", "size"),
    [("shufflenet_v2_x0_5", 3), *(("test_byobnet", n) for n in (1, 2, 7, 50))],
)
def test_micro_batches_give_the_whole_gradient(name: str, size: int) -> None:
    names = ["test_resnet", name]
    assert_same(second_step(names, size), second_step(names, 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"tv_l1": 0.2, "l2_scale": 0.1, "densification_weight": 1e-3},
        CONV,
        {**CONV, "conv_drop_prob": 0.5, "stats_ema": 0.4},
        {"stats_ema": 0.8},
        {"r_bn": 0.0},
    ],
)
def test_every_term_survives_micro_batches(changes: dict[str, Any]) -> None:
    names = ["test_resnet", "test_efficientnet"]
    assert_same(second_step(names, 2, **changes), second_step(names, 0, **changes))


@pytest.mark.parametrize("bn", [["test_resnet", "test_byobnet"], ["test_efficientnet"]])
def test_coupled_and_logit_only_teachers_survive_micro_batches(bn: list[str]) -> None:
    logit = ["test_byobnet", "test_resnet"]
    names = list(dict.fromkeys([*bn, *logit]))
    assert_same(second_step(names, 3, logit=logit), second_step(names, 0, logit=logit))


def test_single_precision_stays_close() -> None:
    names = ["test_resnet", "test_byobnet"]
    assert_same(second_step(names, 2, double=False), second_step(names, 0, double=False), 1e-3)


def too_large(_: object, inputs: tuple[Tensor, ...]) -> None:
    if len(inputs[0]) > 2:
        raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize("fails_at", [0, 1])
def test_out_of_memory_halves_the_size_and_repeats_the_step(fails_at: int) -> None:
    """A repeated step draws the same convolutions, and moves the running means once."""
    changes = {**CONV, "conv_drop_prob": 0.5, "stats_ema": 0.4}
    gradients = []
    for limited in (False, True):
        objective = objective_of(["test_resnet"], **changes)
        backward = MicroBatchedBackward(objective)
        for step in range(3):
            if limited and step == fails_at:
                network = objective.matchers[0].runner.teacher.network
                network.layer4.register_forward_pre_hook(too_large)
            found = StepResult(backward, images_of(), ["test_resnet"], ["test_resnet"], LABELS, AUG)
        gradients.append(found.gradient)
        assert backward.micro_batch_size == (2 if limited else 0)  # 7, 4, 2
    assert relative_error(gradients[1], gradients[0]) < 1e-9


@pytest.mark.parametrize("size", [0, 3])
def test_gradients_of_terms_are_those_of_separate_backward_passes(size: int) -> None:
    names, images, labels = ["test_resnet", "test_byobnet"], images_of()[:4], FOUR
    teachers = {name: teacher_of(name, double=True) for name in names}
    backward = MicroBatchedBackward(objective_of(names, tv_l1=0.2), size)
    leaf = images.clone().requires_grad_()
    found = dict(backward.gradients(StepInputs([leaf], [AUG], labels, names[:1], names)))
    terms = {
        "logit/test_resnet": ("test_resnet", 0, 1.0),
        "bn/test_resnet": ("test_resnet", 1, 0.5 * 0.3 / 2),  # its scale is 0.5
        "bn/test_byobnet": ("test_byobnet", 1, 0.3 / 2),
    }
    assert found.keys() == terms.keys()
    for term, (name, part, weight) in terms.items():
        leaf = images.clone().requires_grad_()
        value = weight * literal_terms(augment(leaf, [AUG]), teachers[name])[part]
        (gradient,) = found[term]
        assert relative_error(gradient, torch.autograd.grad(value, leaf)[0]) < 1e-7


def test_measuring_gradients_changes_nothing() -> None:
    """Neither running means nor the draw of convolutions, nor the gradients of the images."""
    names, changes = ["test_resnet"], {**CONV, "conv_drop_prob": 0.5, "stats_ema": 0.4}
    gradients = []
    for measures in (False, True):
        backward = MicroBatchedBackward(objective_of(names, **changes))
        for _ in range(2):
            if measures:
                leaf = images_of().requires_grad_()
                leaf.grad = torch.full_like(leaf, 2.0)
                list(backward.gradients(StepInputs([leaf], [AUG], LABELS, names, names)))
                assert (leaf.grad == 2).all()
            found = StepResult(backward, images_of(), names, names, LABELS, AUG)
        gradients.append(found.gradient)
    assert torch.equal(*gradients)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    backward = MicroBatchedBackward(objective_of(["test_resnet"]))
    with pytest.raises((RuntimeError, IndexError), match="(?i)target|size"):
        StepResult(backward, images_of(), ["test_resnet"], ["test_resnet"], LABELS + 99, AUG)
