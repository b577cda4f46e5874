"""The objective, the views and the recover loop against literal float64 versions."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.data.augment import AugParams, augment, sample_augmentation
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.loop import min_crop_area, recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import (
    Objective,
    bn_loss_scales,
    build_stat_matcher,
    image_priors,
    term_weights,
    weighted_sum,
)
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from tests.helpers.teachers import ARCHITECTURES, bn_inputs, teacher_of

LABELS = torch.tensor([3, 1, 4, 1])


def recipe_of(**changes: object) -> Recipe:
    values = {
        "iterations": 4,
        "lr": 0.1,
        "r_bn": 0.3,
        "flip": False,
        "jitter": 0,
        "crop_min": 1.0,
    }
    return load_recipe("prism", {**values, **changes})


def objective_of(recipe: Recipe, primary: Teacher, *others: Teacher) -> Objective:
    """Make the objective of a unit in which all of these take part."""
    matchers = {teacher.name: build_stat_matcher(teacher, recipe) for teacher in (primary, *others)}
    return Objective(recipe, matchers)


def losses_of(
    images: Tensor,
    primary: Teacher,
    bn: list[Teacher],
    recipe: Recipe | None = None,
    labels: Tensor = LABELS,
) -> dict[str, Tensor]:
    """Return the terms of a step that shows images as they are."""
    objective = objective_of(recipe or recipe_of(), primary, *bn)
    bn_teachers = [teacher.name for teacher in bn]
    return objective.terms(
        images, images, labels, logit_teachers=[primary.name], bn_teachers=bn_teachers
    )


def value_of(
    images: Tensor, primary: Teacher, bn: list[Teacher], recipe: Recipe | None = None
) -> Tensor:
    """Return the scalar that such a step lowers."""
    recipe = recipe or recipe_of()
    losses = losses_of(images, primary, bn, recipe)
    return weighted_sum(losses, term_weights(losses, recipe, {}))


def literal_alignment(teacher: Teacher, images: Tensor, factor: float) -> Tensor:
    """Sum over layers and channels by the formula of the method, term by term."""
    total = torch.zeros((), dtype=torch.float64)
    layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
    for number, (layer, values) in enumerate(
        zip(layers, bn_inputs(teacher.network, images), strict=True)
    ):
        count = values.shape[0] * values.shape[2] * values.shape[3]
        mean = values.sum(dim=(0, 2, 3)) / count
        var = (values - mean[None, :, None, None]).pow(2).sum(dim=(0, 2, 3)) / count
        weight = factor if number == 0 else 1.0
        total = total + weight * (var - layer.running_var).pow(2).sum().sqrt()
        total = total + weight * (mean - layer.running_mean).pow(2).sum().sqrt()
    return total


def literal_objective(images: Tensor, primary: Teacher, bn: list[Teacher], r_bn: float) -> Tensor:
    logits = primary.network(images)
    labels = LABELS[: len(images)]
    log_probability = logits - logits.exp().sum(1, keepdim=True).log()
    cross_entropy = -log_probability[range(len(labels)), labels].sum() / len(labels)
    alignment = sum(literal_alignment(teacher, images, 10.0) for teacher in bn)
    return cross_entropy + r_bn / len(bn) * alignment


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("primary_in_bn", [True, False])
def test_objective_and_gradient_equal_the_literal_formula(name: str, primary_in_bn: bool) -> None:
    primary = teacher_of("test_resnet", double=True)
    other = teacher_of(name, double=True)
    bn = [primary, other] if primary_in_bn else [other]
    torch.manual_seed(1)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    value = value_of(images, primary, bn)
    (gradient,) = torch.autograd.grad(value, images)
    expected = literal_objective(images, primary, bn, 0.3)
    (expected_gradient,) = torch.autograd.grad(expected, images)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-7, atol=1e-12)
    assert gradient.abs().max() > 0


def test_the_gradient_agrees_with_finite_differences() -> None:
    primary = teacher_of("test_resnet", double=True)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, requires_grad=True)

    def value(x: Tensor) -> Tensor:
        return value_of(x, primary, [primary], recipe_of(r_bn=0.01))

    (gradient,) = torch.autograd.grad(value(images), images)
    direction = torch.randn_like(images)
    step = 1e-6
    with torch.no_grad():
        slope = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_each_network_runs_once_and_terms_carry_names() -> None:
    primary, other = teacher_of("test_resnet"), teacher_of("test_byobnet")
    passes: list[str] = []
    for teacher in (primary, other):
        teacher.network.register_forward_pre_hook(lambda *_, name=teacher.name: passes.append(name))
    losses = losses_of(torch.randn(4, 3, 32, 32), primary, [primary, other])
    assert sorted(passes) == ["test_byobnet", "test_resnet"]
    assert set(losses) == {"logit/test_resnet", "bn/test_resnet", "bn/test_byobnet"}


def test_matching_statistics_cost_nothing() -> None:
    teacher = teacher_of("test_resnet", double=True)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for index, probe in enumerate(teacher.bn_layer_stats):
        # Layer by layer from the input up: the next layers' inputs change with it.
        seen = teacher.forward_with_stats(images)[1][index]
        probe.layer.running_mean.copy_(seen.mean)
        probe.layer.running_var.copy_(seen.var)
    losses = losses_of(images, teacher, [teacher])
    assert losses["bn/test_resnet"].item() == pytest.approx(0, abs=1e-9)


def seen_through(view: AugParams, images: Tensor) -> Tensor:
    return augment(images, [view])


def test_a_whole_view_is_the_identity() -> None:
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(seen_through(AugParams((0, 0, 16, 16)), images), images)


def test_a_view_crops_then_flips_then_shifts_cyclically() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    whole = (0, 0, 4, 4)
    assert seen_through(AugParams(whole, True), images)[0, 0, 0].tolist() == [3, 2, 1, 0]
    assert seen_through(AugParams(whole, shift=(1, 0)), images)[0, 0, :, 0].tolist() == [
        12,
        0,
        4,
        8,
    ]
    assert seen_through(AugParams(whole, shift=(0, 1)), images)[0, 0, 0].tolist() == [3, 0, 1, 2]
    assert seen_through(AugParams(whole, True, (0, 1)), images)[0, 0, 0].tolist() == [0, 3, 2, 1]
    crop = functional.interpolate(images[:, :, 1:3, 2:4], size=(4, 4), mode="bilinear")
    assert torch.allclose(seen_through(AugParams((1, 2, 2, 2)), images), crop, atol=1e-6)


def test_drawn_views_cover_flips_and_shifts() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [
        sample_augmentation(32, crop_min=0.5, flip=True, jitter=4, generator=generator)
        for _ in range(800)
    ]
    assert abs(sum(view.flip for view in views) / 800 - 0.5) < 0.1
    assert {view.shift[0] for view in views} == {0, 1, 2, 3, 4}
    assert {view.shift[1] for view in views} == {0, 1, 2, 3, 4}


def test_views_without_flip_or_roll_have_none() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [
        sample_augmentation(32, crop_min=0.5, flip=False, jitter=0, generator=generator)
        for _ in range(50)
    ]
    assert not any(view.flip or any(view.shift) for view in views)


BOUNDS = (torch.full((3, 1, 1), -1.5), torch.full((3, 1, 1), 1.5))


BOTH = TeacherSchedule(100, (("test_resnet", "test_byobnet"),), ("test_resnet",))


def run_recover(
    recipe: Recipe,
    initial: Tensor,
    bounds: tuple[Tensor, Tensor] = BOUNDS,
    draws: TeacherSchedule = BOTH,
) -> Tensor:
    primary = teacher_of("test_resnet", double=initial.dtype == torch.float64)
    other = teacher_of("test_byobnet", double=initial.dtype == torch.float64)
    return recover(
        initial,
        LABELS,
        gradient=MicroBatchedBackward(objective_of(recipe, primary, other)),
        draws=draws,
        bounds=bounds,
        recipe=recipe,
        generator=torch.Generator().manual_seed(0),
        on_step=lambda step, losses: None,
    )


def test_recover_is_adam_with_a_cosine_and_a_clamp() -> None:
    torch.manual_seed(2)
    initial = torch.randn(4, 3, 32, 32, dtype=torch.float64).clamp(-1.5, 1.5)
    recipe = recipe_of()
    # Full crops have a ratio of 1 only where the draw falls back, so replay the drawn views.
    generator = torch.Generator().manual_seed(0)
    primary = teacher_of("test_resnet", double=True)
    other = teacher_of("test_byobnet", double=True)
    images, first, second = initial.clone(), 0.0, 0.0
    for step in range(4):
        view = sample_augmentation(32, crop_min=1.0, flip=False, jitter=0, generator=generator)
        images.requires_grad_()
        objective = literal_objective(seen_through(view, images), primary, [primary, other], 0.3)
        (gradient,) = torch.autograd.grad(objective, images)
        lr = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 4))
        first = 0.5 * first + 0.5 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        moved = (first / (1 - 0.5 ** (step + 1))) / (
            (second / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8
        )
        images = (images.detach() - lr * moved).clamp(-1.5, 1.5)
    assert torch.allclose(run_recover(recipe, initial), images, atol=1e-9)


def test_recover_leaves_the_initial_images_alone_and_changes_every_image() -> None:
    initial = torch.randn(4, 3, 32, 32)
    kept = initial.clone()
    images = run_recover(recipe_of(), initial)
    assert torch.equal(initial, kept)
    assert ((images - initial).abs().flatten(1).amax(1) > 0).all()
    assert not images.requires_grad


def test_recover_stays_within_what_pixels_can_show() -> None:
    images = run_recover(recipe_of(lr=5.0), torch.randn(4, 3, 32, 32))
    assert images.min() == -1.5
    assert images.max() == 1.5


def test_recover_lowers_the_objective() -> None:
    torch.manual_seed(3)
    initial = torch.randn(4, 3, 32, 32).clamp(-1.5, 1.5)
    images = run_recover(recipe_of(iterations=30), initial)
    primary, other = teacher_of("test_resnet"), teacher_of("test_byobnet")

    def value(x: Tensor) -> float:
        return value_of(x, primary, [primary, other]).item()

    assert value(images) < 0.95 * value(initial)


def test_teams_take_turns_within_a_unit() -> None:
    torch.manual_seed(4)
    initial = torch.randn(4, 3, 32, 32)
    turns = TeacherSchedule(2, (("test_resnet",), ("test_byobnet",)), ("test_resnet",))
    seen: list[set[str]] = []
    recipe = recipe_of(iterations=6)
    recover(
        initial,
        LABELS,
        gradient=MicroBatchedBackward(
            objective_of(recipe, teacher_of("test_resnet"), teacher_of("test_byobnet"))
        ),
        draws=turns,
        bounds=BOUNDS,
        recipe=recipe,
        generator=torch.Generator().manual_seed(0),
        on_step=lambda step, losses: seen.append({n for n in losses if n.startswith("bn/")}),
    )
    assert seen == [{"bn/test_resnet"}] * 2 + [{"bn/test_byobnet"}] * 2 + [{"bn/test_resnet"}] * 2


@pytest.mark.parametrize("schedule", ["fixed", "curriculum"])
def test_the_crop_curriculum_falls_from_one_to_the_floor(schedule: str) -> None:
    recipe = recipe_of(iterations=4000, crop_min=0.08, crop_schedule=schedule)
    for step in (0, 1, 1000, 2000, 3999):
        expected = 0.08 + 0.92 * (1 + math.cos(math.pi * step / 4000)) / 2
        floor = 0.08 if schedule == "fixed" else expected
        assert min_crop_area(recipe, step) == pytest.approx(floor)


def test_image_priors_equal_the_double_loop_and_weigh_in() -> None:
    images = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    x = images.tolist()
    down = [
        abs(x[n][c][i + 1][j] - x[n][c][i][j])
        for n in range(2)
        for c in range(3)
        for i in range(3)
        for j in range(5)
    ]
    right = [
        abs(x[n][c][i][j + 1] - x[n][c][i][j])
        for n in range(2)
        for c in range(3)
        for i in range(4)
        for j in range(4)
    ]
    norms = [math.sqrt(sum(v * v for ch in x[n] for row in ch for v in row)) for n in range(2)]
    priors = image_priors(images)
    assert priors["tv/images"].item() == pytest.approx(sum(down) / 90 + sum(right) / 96)
    assert priors["l2/images"].item() == pytest.approx(sum(norms) / 2)
    losses = {"logit/a": torch.tensor(1.0), "bn/a": torch.tensor(2.0), "bn/b": torch.tensor(4.0)}
    losses |= {name: value.float() for name, value in priors.items()}
    losses["density/images"] = torch.tensor(7.0)
    recipe = recipe_of(r_bn=0.5, tv_l1=0.1, l2_scale=0.01, densification_weight=0.2)
    total = weighted_sum(losses, term_weights(losses, recipe, {"b": 3.0}))
    expected = 1 + 0.5 * (2 + 12) / 2 + 0.1 * priors["tv/images"] + 0.01 * priors["l2/images"] + 1.4
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_image_priors_smooth_the_images() -> None:
    torch.manual_seed(5)
    initial = torch.randn(4, 3, 32, 32)

    def roughness(**changes: float) -> float:
        images = run_recover(recipe_of(iterations=10, **changes), initial)
        return image_priors(images)["tv/images"].item()

    assert roughness(tv_l1=100.0) < roughness()


def test_normalisation_brings_networks_to_the_primarys_scale() -> None:
    primary, other = teacher_of("test_resnet"), teacher_of("test_byobnet")
    real = torch.randn(8, 3, 32, 32)

    def scales(kind: str, **weights: float) -> dict[str, float]:
        recipe = recipe_of(bn_normalize=kind, bn_weights=weights)
        matchers = [build_stat_matcher(teacher, recipe) for teacher in (primary, other)]
        return bn_loss_scales(recipe, matchers[0], matchers, lambda: real)

    assert scales("none") == {"test_resnet": 1.0, "test_byobnet": 1.0}
    assert scales("none", test_byobnet=0.5)["test_byobnet"] == 0.5
    assert scales("layers")["test_byobnet"] == pytest.approx(15 / 14)
    assert scales("channels") == pytest.approx({"test_resnet": 1.0, "test_byobnet": 1040 / 1192})
    losses = losses_of(real, primary, [primary, other], labels=torch.zeros(8, dtype=torch.int64))
    balanced = scales("real", test_byobnet=2.0)
    weighted = balanced["test_byobnet"] * losses["bn/test_byobnet"]
    assert weighted.item() == pytest.approx(2 * losses["bn/test_resnet"].item(), rel=1e-4)


def test_a_network_without_bn_counts_in_the_divisor_and_is_not_run() -> None:
    primary, bare = teacher_of("test_resnet"), teacher_of("test_convnext")
    bare.network.register_forward_hook(lambda *_: pytest.fail("it was run"))
    images = torch.randn(4, 3, 32, 32)

    def value(bn: list[Teacher], r_bn: float) -> float:
        return value_of(images, primary, bn, recipe_of(r_bn=r_bn)).item()

    assert value([primary, bare], 0.4) == pytest.approx(value([primary], 0.2))
