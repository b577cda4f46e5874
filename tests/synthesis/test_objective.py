"""The loss and its gradient against literal float64 formulas, by the path that optimizes images."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prism_nb.core.recipe import load_recipe
from prism_nb.data.augment import AugParams, augment
from prism_nb.models.difficulty import group_targets
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import (
    Objective,
    bn_loss_scales,
    build_stat_matcher,
    data_densification_loss,
    image_priors,
)
from tests.helpers.objectives import (
    LABELS,
    StepResult,
    conv_stats_of,
    gvbsm,
    literal_channels,
    literal_objective,
    literal_terms,
    matcher_of,
    objective_of,
    prism,
    relative_error,
    step_of,
)
from tests.helpers.teachers import ARCHITECTURES, layer_inputs, teacher_of


def noise(size: int = 32, count: int = 4) -> Tensor:
    return torch.randn(
        count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def gradient_of(function: Callable[[Tensor], Tensor], images: Tensor) -> tuple[float, Tensor]:
    leaf = images.clone().requires_grad_()
    value = function(leaf)
    return value.item(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("primary_in_bn", [True, False])
def test_loss_and_gradient_equal_the_formula(name: str, primary_in_bn: bool) -> None:
    primary, other = teacher_of("test_resnet", double=True), teacher_of(name, double=True)
    bn = [primary, other] if primary_in_bn else [other]
    step = step_of(
        objective_of(prism(), primary, other), noise(), [primary.name], [t.name for t in bn]
    )
    value, gradient = gradient_of(lambda x: literal_objective(x, primary, bn, 0.3), noise())
    assert step.value == pytest.approx(value, rel=1e-10)
    assert relative_error(step.gradient, gradient) < 1e-7


@pytest.mark.parametrize("size", [0, 3])
def test_targets_of_an_image_index_take_the_place_of_running_statistics(size: int) -> None:
    teacher, recipe = teacher_of("resnet18", double=True), prism()
    running = torch.cat([torch.stack(stat) for stat in teacher.running_stats()], dim=1)
    groups = {"resnet18": torch.stack([running, 2 * running + 0.1])}
    matcher = build_stat_matcher(teacher, recipe, bn_stats=group_targets(groups, teacher, 1))
    objective = Objective(recipe, {"resnet18": matcher})
    step = step_of(objective, noise(), ["resnet18"], ["resnet18"], size=size)
    layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]

    def literal(x: Tensor) -> Tensor:
        entropy, _ = literal_terms(x, teacher)
        _, inputs = layer_inputs(teacher.network, layers, x)
        for number, (layer, values) in enumerate(zip(layers, inputs, strict=True)):
            mean, var = literal_channels(values)
            norms = (mean - 2 * layer.running_mean - 0.1).pow(2).sum().sqrt()
            norms = norms + (var - 2 * layer.running_var - 0.1).pow(2).sum().sqrt()
            entropy = entropy + 0.3 * (10.0 if number == 0 else 1.0) * norms
        return entropy

    value, gradient = gradient_of(literal, noise())
    assert step.value == pytest.approx(value, rel=1e-10)
    assert relative_error(step.gradient, gradient) < 1e-7


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gvbsm_equals_the_formula(name: str) -> None:
    teacher = teacher_of(name, size=24, double=True)
    step = step_of(objective_of(gvbsm(), teacher), noise(24), [name], [name])
    assert set(step.losses) == {f"logit/{name}", f"bn/{name}"}

    def literal(x: Tensor) -> Tensor:
        entropy, distance = literal_terms(x, teacher, conv_stats=conv_stats_of(teacher))
        return entropy + 0.3 * distance

    value, gradient = gradient_of(literal, noise(24))
    assert step.value == pytest.approx(value, rel=1e-10)
    assert relative_error(step.gradient, gradient) < 1e-7


@pytest.mark.parametrize("whole_head", [True, False])
@pytest.mark.parametrize("size", [0, 3])
def test_cross_entropy_is_among_the_whole_head_or_the_datasets_classes(
    whole_head: bool, size: int
) -> None:
    rows = [7, 2, 9, 0, 4]
    plain = teacher_of("test_resnet", double=True)
    teacher = Teacher(
        "test_resnet",
        plain.network,
        native=plain._native,
        dataset=plain._dataset,
        head_rows=rows,
    )
    objective = objective_of(prism(whole_head=whole_head), teacher)
    step = step_of(objective, noise(), [teacher.name], [], size=size)

    def literal(x: Tensor) -> Tensor:
        logits = plain.network(x)
        among = range(10) if whole_head else rows
        total = torch.stack([logits[:, row].exp() for row in among]).sum(0).log()
        picked = torch.stack([logits[n, rows[label]] for n, label in enumerate(LABELS.tolist())])
        return (total - picked).mean()

    value, gradient = gradient_of(literal, noise())
    assert step.value == pytest.approx(value, rel=1e-10)
    assert relative_error(step.gradient, gradient) < 1e-7


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [0, 3])
def test_relative_distances_equal_the_formula(name: str, size: int) -> None:
    teacher = teacher_of(name, double=True)
    layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
    layers[1].running_var[:2] = 0.0  # dead channels
    recipe = prism(bn_distance="relative", first_bn_multiplier=4.0)
    step = step_of(objective_of(recipe, teacher), noise(), [], [name], size=size)

    def literal(x: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        _, inputs = layer_inputs(teacher.network, layers, x)
        for number, (layer, values) in enumerate(zip(layers, inputs, strict=True)):
            mean, var = literal_channels(values)
            deviation = (layer.running_var + 1e-5).sqrt()
            shift = ((mean - layer.running_mean) / deviation).pow(2).mean().sqrt()
            ratio = (var + 1e-5).log() - 2 * deviation.log()
            total = total + (4.0 if number == 0 else 1.0) * (shift + ratio.pow(2).mean().sqrt())
        return 0.3 * total

    value, gradient = gradient_of(literal, noise())
    assert step.value == pytest.approx(value, rel=1e-10)
    assert relative_error(step.gradient, gradient) < 1e-7


@pytest.mark.parametrize("distance", ["norms", "relative"])
def test_relative_distances_alone_have_no_scale(distance: str) -> None:
    teacher = teacher_of("test_resnet", double=True)
    matcher = matcher_of(teacher, prism(bn_distance=distance))
    stats = tuple(matcher.real_stats)
    batch = dict(zip(stats, matcher.runner.stats_only(noise(), stats), strict=True))

    def scaled(values: Mapping[LayerStat, MeanVar]) -> dict[LayerStat, MeanVar]:
        return {stat: MeanVar(3 * v.mean, 9 * v.var) for stat, v in values.items()}

    larger = replace(matcher, real_stats=scaled(matcher.real_stats))
    ratio = float(larger.distance(scaled(batch)) / matcher.distance(batch))
    assert (abs(ratio - 1) < 0.02) == (distance == "relative")  # but for eps


def test_coupled_teachers_are_averaged_and_scaled() -> None:
    teachers = [teacher_of(n, size=24, double=True) for n in ("test_resnet", "test_byobnet")]
    names = [t.name for t in teachers]
    matchers = {t.name: matcher_of(t, gvbsm()) for t in teachers}
    step = step_of(Objective(gvbsm(), matchers, {names[1]: 2.0}), noise(24), names, names)
    one, two = (literal_terms(noise(24), t, conv_stats=conv_stats_of(t)) for t in teachers)
    expected = (one[0] + two[0]) / 2 + 0.3 * (one[1] + 2 * two[1]) / 2
    assert step.value == pytest.approx(expected.item(), rel=1e-10)


def test_each_network_runs_once_per_step() -> None:
    primary, other = teacher_of("test_resnet"), teacher_of("test_byobnet")
    passes: list[str] = []
    for teacher in (primary, other):
        teacher.network.register_forward_pre_hook(lambda *_, name=teacher.name: passes.append(name))
    objective = objective_of(prism(), primary, other)
    step = step_of(objective, noise().float(), [primary.name], [primary.name, other.name])
    assert sorted(passes) == ["test_byobnet", "test_resnet"]
    assert set(step.losses) == {"logit/test_resnet", "bn/test_resnet", "bn/test_byobnet"}


def test_a_network_without_bn_counts_in_the_divisor_and_is_not_run() -> None:
    primary, bare = teacher_of("test_resnet"), teacher_of("test_convnext")
    bare.network.register_forward_hook(lambda *_: pytest.fail("the network was run"))
    images = noise().float()
    both = step_of(
        objective_of(prism(r_bn=0.4), primary, bare),
        images,
        [primary.name],
        [primary.name, bare.name],
    )
    alone = step_of(objective_of(prism(r_bn=0.2), primary), images, [primary.name], [primary.name])
    assert both.value == pytest.approx(alone.value)


@pytest.mark.parametrize("statistics", ["bn", "bn_conv"])
def test_the_first_layer_weighs_more(statistics: str) -> None:
    matcher = matcher_of(
        teacher_of("resnet18", size=24), gvbsm(statistics=statistics, first_bn_multiplier=3.0)
    )
    heavy = [stat.name for stat, weight in matcher.weights.items() if weight == 3.0]
    assert heavy == (["bn1.bn"] if statistics == "bn" else ["conv1.channels", "conv1.patches"])
    assert set(matcher.weights.values()) == {1.0, 3.0}
    assert list(matcher.weights) == list(matcher.real_stats)


# -- running means and dropped convolutions ------------------------------------------------------


def test_smoothed_statistics_have_the_mean_and_the_present_gradient() -> None:
    teacher = teacher_of("test_resnet", size=24, double=True)
    smoothed, plain = gvbsm(stats_ema=0.4), matcher_of(teacher, gvbsm())
    stats, weights = tuple(plain.real_stats), list(plain.weights.values())
    backward = MicroBatchedBackward(objective_of(smoothed, teacher))
    means: list[list[Tensor]] = []
    torch.manual_seed(3)
    for step in range(4):
        images = torch.randn(4, 3, 24, 24, dtype=torch.float64, requires_grad=True)
        found = StepResult(backward, images, [], [teacher.name])
        _, batch = teacher.forward_with_stats(images, stats)
        now = [[b.mean.detach(), b.var.detach()] for b in batch]
        means = [
            [0.4 * m + 0.6 * x if step else x for m, x in zip(*pair, strict=True)]
            for pair in zip(means or now, now, strict=True)
        ]
        value, slope = 0.0, torch.zeros((), dtype=torch.float64)
        rows = zip(batch, means, plain.real_stats.values(), weights, strict=True)
        for values, mean, real, weight in rows:
            for x, m, target in zip(values, mean, real, strict=True):
                gap = m - target
                value += weight * gap.norm().item()
                slope = slope + weight * (gap / gap.norm() * x).sum()
        (gradient,) = torch.autograd.grad(slope, images)
        assert found.losses["bn/test_resnet"].item() == pytest.approx(value, rel=1e-10)
        assert relative_error(found.gradient, 0.3 * gradient) < 1e-9


def test_running_means_survive_a_round_trip_and_a_roll_back() -> None:
    teacher = teacher_of("test_resnet", size=24, double=True)
    recipe = gvbsm(stats_ema=0.8, conv_drop_prob=0.5)

    def losses(objective: Objective, steps: int) -> list[float]:
        backward = MicroBatchedBackward(objective)
        return [
            StepResult(backward, noise(24) * (k + 1), [], [teacher.name]).value
            for k in range(steps)
        ]

    whole = losses(objective_of(recipe, teacher), 4)
    first = objective_of(recipe, teacher)
    losses(first, 2)
    second = objective_of(recipe, teacher)
    (matcher,) = second.matchers
    matcher.load_state_dict(first.matchers[0].state_dict())
    backward, before = MicroBatchedBackward(second), matcher.state_dict()
    StepResult(backward, noise(24), [], [teacher.name])
    matcher.load_state_dict(before)
    again = [StepResult(backward, noise(24) * (k + 1), [], [teacher.name]).value for k in (2, 3)]
    assert again == whole[2:]


def test_convolutions_are_dropped_whole_and_as_often_as_asked() -> None:
    teacher = teacher_of("test_resnet", size=24)
    matcher = matcher_of(teacher, gvbsm(conv_drop_prob=0.4))
    convolutions = [m for m in teacher.network.modules() if isinstance(m, nn.Conv2d)]
    steps, dropped = 1000, Counter[nn.Module]()
    for _ in range(steps):
        stats = matcher.sample_layers()
        kept = Counter(stat.layer for stat in stats)
        assert list(stats) == [stat for stat in matcher.real_stats if stat in set(stats)]
        assert set(teacher.bn_layer_stats) <= set(stats)
        assert all(kept[layer] in {0, 2} for layer in convolutions)
        dropped.update(layer for layer in convolutions if not kept[layer])
    # Five standard deviations of a binomial.
    assert all(abs(dropped[c] - 400) < 5 * math.sqrt(240) for c in convolutions)


def test_dropped_convolutions_leave_the_rest_of_the_sum() -> None:
    teacher = teacher_of("test_resnet", size=24, double=True)
    whole = matcher_of(teacher, gvbsm())
    _, batch = teacher.forward_with_stats(noise(24), tuple(whole.real_stats))
    terms = {
        stat.name: float(
            whole.weights[stat] * sum((a - b).norm() for a, b in zip(v, r, strict=True))
        )
        for (stat, r), v in zip(whole.real_stats.items(), batch, strict=True)
    }
    recipe = gvbsm(conv_drop_prob=0.5)
    kept = [stat.name for stat in matcher_of(teacher, recipe, seed=3).sample_layers()]
    assert len(kept) < len(terms)
    step = step_of(objective_of(recipe, teacher, seed=3), noise(24), [], [teacher.name])
    expected = sum(terms[name] for name in kept)
    assert step.losses["bn/test_resnet"].item() == pytest.approx(expected, rel=1e-10)


# -- priors and weights ------------------------------------------------------------------------


def test_image_priors_equal_the_loops() -> None:
    images = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    vertical, horizontal, squares = 0.0, 0.0, [0.0, 0.0]
    for n, c, i, j in itertools.product(range(2), range(3), range(4), range(5)):
        here = images[n, c, i, j].item()
        squares[n] += here**2
        if i:
            vertical += abs(here - images[n, c, i - 1, j].item()) / 90
        if j:
            horizontal += abs(here - images[n, c, i, j - 1].item()) / 96
    priors = image_priors(images)
    assert priors["tv/images"].item() == pytest.approx(vertical + horizontal)
    assert priors["l2/images"].item() == pytest.approx(sum(map(math.sqrt, squares)) / 2)


def test_priors_reach_the_images_and_densification_the_augmented_ones() -> None:
    teacher = teacher_of("test_resnet", size=24, double=True)
    recipe = gvbsm(densification_weight=0.5, tv_l1=0.7)
    backward = MicroBatchedBackward(objective_of(recipe, teacher))
    images, aug = 0.1 * noise(24), AugParams((3, 2, 15, 17), flip=True, shift=(1, 4))
    found = StepResult(backward, images, [teacher.name], [teacher.name], aug_params=aug)

    def literal(x: Tensor) -> Tensor:
        seen = augment(x, [aug])
        entropy, distance = literal_terms(seen, teacher, conv_stats=conv_stats_of(teacher))
        crowding = data_densification_loss(seen, LABELS)
        assert crowding > 1e-3
        return entropy + 0.3 * distance + 0.5 * crowding + 0.7 * image_priors(x)["tv/images"]

    value, gradient = gradient_of(literal, images)
    assert found.value == pytest.approx(value, rel=1e-10)
    assert relative_error(found.gradient, gradient) < 1e-7


def literal_densification(images: Tensor, labels: Tensor) -> Tensor:
    """Return KL(p || q) of the spectra of the Gram matrix of each class, for S a multiple of 32."""
    total, side = torch.zeros((), dtype=torch.float64), images.shape[-1] // 32
    for c in labels.unique():
        rows = images[labels == c].unflatten(3, (32, side)).unflatten(2, (32, side)).mean((3, 5))
        eigenvalues = torch.linalg.eigvalsh(rows.flatten(1) @ rows.flatten(1).T)
        p, q = (eigenvalues / 4).softmax(0).detach(), eigenvalues.softmax(0)
        total = total + (p * (p.log() - q.log())).sum()
    return total


@pytest.mark.parametrize("size", [32, 64])
def test_densification_equals_the_divergence_of_each_class(size: int) -> None:
    torch.manual_seed(0)
    images = size / 1000 * torch.randn(6, 3, size, size, dtype=torch.float64)
    labels = torch.tensor([5, 2, 5, 9, 2, 5])
    (found, gradient), (value, expected) = (
        gradient_of(lambda x, f=function: f(x, labels), images)
        for function in (data_densification_loss, literal_densification)
    )
    assert found == pytest.approx(value, rel=1e-9)
    assert value > 1e-4
    assert relative_error(gradient, expected) < 1e-7
    assert (gradient[3] == 0).all()  # alone in its class


# -- scales ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "layers", "channels", "real"])
def test_normalization_brings_networks_to_the_primarys_scale(kind: str) -> None:
    recipe = gvbsm(bn_normalize=kind, bn_weights={"test_byobnet": 2.0})
    one, two = (teacher_of(n, size=24, double=True) for n in ("test_resnet", "test_byobnet"))
    matchers = [matcher_of(teacher, recipe) for teacher in (one, two)]
    asked: list[int] = []

    def real_images() -> Tensor:
        asked.append(1)
        return noise(24)

    def size(teacher: Teacher) -> float:
        conv = conv_stats_of(teacher)
        layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
        if kind == "layers":
            return len(layers) + len(conv)
        if kind == "channels":
            channels = sum(layer.num_features for layer in layers)
            return channels + sum(len(target.mean) for target in conv.values())
        return literal_terms(noise(24), teacher, conv_stats=conv)[1].item()

    factor = 1.0 if kind == "none" else size(one) / size(two)
    scales = bn_loss_scales(recipe, matchers[0], matchers, real_images)
    assert scales == pytest.approx({"test_resnet": 1.0, "test_byobnet": 2 * factor}, rel=1e-9)
    assert len(asked) == (kind == "real")
    assert abs(factor - 1) > 0.01 or kind == "none"


def test_a_network_without_statistics_has_no_scale() -> None:
    recipe = load_recipe("prism_reference", {"bn_normalize": "layers"})
    matchers = [build_stat_matcher(teacher_of(n), recipe) for n in ("test_resnet", "test_convnext")]
    scales = bn_loss_scales(recipe, matchers[0], matchers, lambda: torch.zeros(0))
    assert scales == {"test_resnet": 1.0}
