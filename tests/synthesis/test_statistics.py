"""G-VBSM: what convolutions are given, smoothed and dropped, against literal float64 versions."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prism_nb.core.device import seeded
from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.core.settings import Squeeze
from prism_nb.data.dataset import ImageDataset, Split
from prism_nb.data.small import Digits
from prism_nb.models.layer_stats import LayerStat, MeanVar, capture_stats, conv_layer_stats
from prism_nb.models.runner import TeacherRunner
from prism_nb.models.teacher import Teacher
from prism_nb.models.train import collect_conv_stats
from prism_nb.synthesis.objective import (
    Objective,
    StatMatcher,
    bn_loss_scales,
    bn_stats_loss,
    build_stat_matcher,
    data_densification_loss,
    term_weights,
    weighted_sum,
)
from tests.helpers.teachers import ARCHITECTURES, teacher_of

LABELS = torch.tensor([3, 1, 4, 1])
PATCH = 5  # divides no map of a 24-pixel image, so that all of them are stretched


def gvbsm(**changes: object) -> Recipe:
    values = {
        "conv_patch_size": PATCH,
        "conv_drop_prob": 0.0,
        "stats_ema": 0.0,
        "densification_weight": 0.0,
    }
    return load_recipe("gvbsm", {**values, "r_bn": 0.3, **changes})


def alone(teacher: Teacher) -> dict[str, list[str]]:
    """Say that one network steers a step."""
    return {"logit_teachers": [teacher.name], "team": [teacher.name]}


def conv_targets_of(teacher: Teacher, size: int = 24) -> dict[str, MeanVar]:
    """Measure other images, to have something to align with."""
    torch.manual_seed(7)
    images = torch.randn(3, 3, size, size, dtype=next(teacher.parameters()).dtype)
    probes = conv_layer_stats(teacher.network, PATCH)
    _, seen = teacher.forward_with_stats(images, probes)
    return {p.name: MeanVar(s.mean + 0.1, s.var * 1.5) for p, s in zip(probes, seen, strict=True)}


def watch_of(teacher: Teacher, recipe: Recipe, *, seed: int = 0) -> StatMatcher:
    generator = torch.Generator().manual_seed(seed)
    targets = conv_targets_of(teacher) if recipe.statistics == "bn_conv" else None
    return build_stat_matcher(teacher, recipe, conv_targets=targets, generator=generator)


def stretched(values: Tensor, height: int, width: int) -> Tensor:
    """Resample maps bilinearly, pixel centres on pixel centres, one axis after the other."""
    for axis, side in ((2, height), (3, width)):
        old = values.shape[axis]
        at = [min(max((i + 0.5) * old / side - 0.5, 0), old - 1) for i in range(side)]
        low = [int(place) for place in at]
        high = [min(place + 1, old - 1) for place in low]
        share = torch.tensor([a - b for a, b in zip(at, low, strict=True)], dtype=values.dtype)
        share = share.view(-1, *[1] * (3 - axis))
        lower = values.index_select(axis, torch.tensor(low))
        upper = values.index_select(axis, torch.tensor(high))
        values = lower * (1 - share) + upper * share
    return values


def literal_channels(values: Tensor) -> tuple[Tensor, Tensor]:
    count = values.shape[0] * values.shape[2] * values.shape[3]
    mean = values.sum(dim=(0, 2, 3)) / count
    return mean, (values - mean[None, :, None, None]).pow(2).sum(dim=(0, 2, 3)) / count


def literal_patches(values: Tensor, side: int) -> tuple[Tensor, Tensor]:
    down, right = math.ceil(values.shape[2] / side), math.ceil(values.shape[3] / side)
    values = stretched(values, down * side, right * side)
    means, variances = [], []
    for i in range(down):
        for j in range(right):
            patch = values[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side]
            mean = patch.sum() / patch.numel()
            means.append(mean)
            variances.append((patch - mean).pow(2).sum() / patch.numel())
    return torch.stack(means), torch.stack(variances)


def test_channel_statistics_are_the_explicit_sums() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    x = values.tolist()
    seen = LayerStat("here", nn.Identity()).measure(values)
    for c in range(3):
        flat = [x[n][c][i][j] for n in range(2) for i in range(4) for j in range(5)]
        mean = math.fsum(flat) / 40
        assert seen.mean[c].item() == pytest.approx(mean, rel=1e-12)
        var = math.fsum((v - mean) ** 2 for v in flat) / 40
        assert seen.var[c].item() == pytest.approx(var, rel=1e-12)


@pytest.mark.parametrize(("height", "width", "side"), [(4, 6, 2), (5, 7, 3), (1, 1, 4), (3, 8, 4)])
def test_patch_statistics_are_the_explicit_sums(height: int, width: int, side: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, height, width, dtype=torch.float64)
    x = values.tolist()
    down, right = math.ceil(height / side), math.ceil(width / side)

    def between(i: int, old: int, new: int) -> tuple[int, int, float]:
        at = max((i + 0.5) * old / new - 0.5, 0.0)
        low = min(int(at), old - 1)
        return low, min(low + 1, old - 1), at - low

    def pixel(n: int, c: int, i: int, j: int) -> float:
        top, bottom, t = between(i, height, down * side)
        left, right_, s = between(j, width, right * side)
        upper = x[n][c][top][left] * (1 - s) + x[n][c][top][right_] * s
        lower = x[n][c][bottom][left] * (1 - s) + x[n][c][bottom][right_] * s
        return upper * (1 - t) + lower * t

    seen = LayerStat("here", nn.Identity(), side).measure(values)
    assert seen.mean.shape == seen.var.shape == (down * right,)
    for place in range(down * right):
        u, v = divmod(place, right)
        flat = [
            pixel(n, c, u * side + i, v * side + j)
            for n in range(2)
            for c in range(3)
            for i in range(side)
            for j in range(side)
        ]
        mean = math.fsum(flat) / len(flat)
        var = math.fsum((value - mean) ** 2 for value in flat) / len(flat)
        assert seen.mean[place].item() == pytest.approx(mean, rel=1e-10, abs=1e-13)
        assert seen.var[place].item() == pytest.approx(var, rel=1e-10, abs=1e-13)


def test_every_convolution_has_two_probes_and_batch_norm_one() -> None:
    teacher = teacher_of("resnet18")
    names = [name for name, m in teacher.network.named_modules() if isinstance(m, nn.Conv2d)]
    probes = conv_layer_stats(teacher.network, 16)
    assert [p.name for p in probes] == [
        f"{name}.{kind}" for name in names for kind in ("channels", "patches")
    ]
    assert [p.patch for p in probes] == [0, 16] * 20
    assert len(watch_of(teacher, gvbsm()).targets) == 20 + 2 * 20
    assert len(build_stat_matcher(teacher, gvbsm()).targets) == 20


def test_probes_leave_no_hook_behind_even_where_the_pass_fails() -> None:
    teacher = teacher_of("test_resnet")
    with (
        pytest.raises(RuntimeError, match="channels"),
        capture_stats(conv_layer_stats(teacher.network, 4)),
    ):
        teacher(torch.zeros(1, 5, 8, 8))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def stat_networks(
    network: nn.Module, layers: list[nn.Module], images: Tensor
) -> tuple[Tensor, dict[nn.Module, Tensor]]:
    """Return a network's logits, and what its layers are given, the plain way."""
    inputs: dict[nn.Module, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda m, given, _: inputs.update({m: given[0]}))
        for layer in layers
    ]
    logits = network(images)
    for handle in handles:
        handle.remove()
    return logits, inputs


def literal_gvbsm(
    images: Tensor, teacher: Teacher, targets: dict[str, MeanVar], factor: float
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and alignment of one network, module by module."""
    network = teacher.network
    hooked = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d)
    }
    logits, inputs = stat_networks(network, list(hooked.values()), images)
    total = torch.zeros((), dtype=torch.float64)
    for number, (name, module) in enumerate(hooked.items()):
        mean, var = literal_channels(inputs[module])
        if isinstance(module, nn.BatchNorm2d):
            pairs = [(mean, module.running_mean), (var, module.running_var)]
        else:
            channels, patches = targets[f"{name}.channels"], targets[f"{name}.patches"]
            patch_mean, patch_var = literal_patches(inputs[module], PATCH)
            pairs = [(mean, channels.mean), (var, channels.var)]
            pairs += [(patch_mean, patches.mean), (patch_var, patches.var)]
        norms = sum((here - there).pow(2).sum().sqrt() for here, there in pairs)
        total = total + (factor if number == 0 else 1.0) * norms
    chosen = logits[range(len(images)), LABELS[: len(images)]]
    return (logits.exp().sum(1).log() - chosen).sum() / len(images), total


def agree(gradient: Tensor, expected: Tensor, rel: float) -> bool:
    return bool((gradient - expected).norm() <= rel * expected.norm() > 0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_objective_of_gvbsm_equals_the_literal_formula(name: str) -> None:
    recipe = gvbsm()
    teacher = teacher_of(name, size=24, double=True)
    torch.manual_seed(1)
    images = torch.randn(4, 3, 24, 24, dtype=torch.float64, requires_grad=True)
    objective = Objective(recipe, {name: watch_of(teacher, recipe)})
    losses = objective.terms(images, images, LABELS, logit_teachers=[name], bn_teachers=[name])
    assert set(losses) == {f"logit/{name}", f"bn/{name}"}
    value = objective.total(losses)
    (gradient,) = torch.autograd.grad(value, images)
    entropy, aligned = literal_gvbsm(images, teacher, conv_targets_of(teacher), 10.0)
    expected = entropy + 0.3 * aligned
    (expected_gradient,) = torch.autograd.grad(expected, images)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    assert agree(gradient, expected_gradient, 1e-7)


def test_each_of_a_coupled_team_gives_logits_and_statistics() -> None:
    recipe = gvbsm()
    one = teacher_of("test_resnet", size=24, double=True)
    two = teacher_of("test_byobnet", size=24, double=True)
    torch.manual_seed(1)
    images = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    matchers = {t.name: watch_of(t, recipe) for t in (one, two)}
    objective = Objective(recipe, matchers, {two.name: 2.0})
    bn_teachers = [one.name, two.name]
    value = objective.total(
        objective.terms(images, images, LABELS, logit_teachers=bn_teachers, bn_teachers=bn_teachers)
    )
    first, second = (literal_gvbsm(images, t, conv_targets_of(t), 10.0) for t in (one, two))
    expected = (first[0] + second[0]) / 2 + 0.3 * (first[1] + 2 * second[1]) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)


def test_densification_weighs_in_on_the_view() -> None:
    recipe = gvbsm(densification_weight=0.5)
    teacher = teacher_of("test_resnet", size=24, double=True)
    images, view = 0.1 * torch.randn(2, 4, 3, 24, 24, dtype=torch.float64)
    objective = Objective(recipe, {teacher.name: watch_of(teacher, recipe)})
    losses = objective.terms(images, view, LABELS, **alone(teacher))
    entropy, aligned = literal_gvbsm(view, teacher, conv_targets_of(teacher), 10.0)
    crowding = data_densification_loss(view, LABELS)
    assert crowding > 1e-3
    expected = entropy + 0.3 * aligned + 0.5 * crowding
    assert objective.total(losses).item() == pytest.approx(expected.item(), rel=1e-10)


def test_smoothed_statistics_have_the_value_of_the_mean_and_the_gradient_of_now() -> None:
    teacher = teacher_of("test_resnet", size=24, double=True)
    recipe = gvbsm(momentum=0.4)
    smoothed, plain = watch_of(teacher, recipe), watch_of(teacher, gvbsm())
    probes, targets = tuple(plain.targets), list(plain.targets.values())
    weights = list(plain.weights.values())
    means: list[list[Tensor]] = []
    torch.manual_seed(3)
    for step in range(5):
        images = torch.randn(4, 3, 24, 24, dtype=torch.float64, requires_grad=True)
        objective = Objective(recipe, {teacher.name: smoothed})
        losses = objective.terms(images, images, LABELS, **alone(teacher))
        (gradient,) = torch.autograd.grad(losses[f"bn/{teacher.name}"], images)
        _, seen = teacher.forward_with_stats(images, probes)
        now = [[s.mean.detach(), s.var.detach()] for s in seen]
        if step == 0:
            means = now
        else:
            means = [
                [0.4 * m + 0.6 * x for m, x in zip(*pair, strict=True)]
                for pair in zip(means, now, strict=True)
            ]
        value, slope = 0.0, torch.zeros((), dtype=torch.float64)
        for s, mean, target, weight in zip(seen, means, targets, weights, strict=True):
            for here, kept, there in zip(s, mean, target, strict=True):
                gap = kept - there
                value += weight * gap.norm().item()
                slope = slope + weight * (gap / gap.norm() * here).sum()
        (expected,) = torch.autograd.grad(slope, images)
        assert losses[f"bn/{teacher.name}"].item() == pytest.approx(value, rel=1e-10)
        assert agree(gradient, expected, 1e-9)


def test_the_running_mean_of_a_dropped_convolution_waits() -> None:
    one, two = LayerStat("one", nn.Identity()), LayerStat("two", nn.Identity())
    here = StatMatcher(TeacherRunner(teacher_of("test_resnet")), {}, {}, momentum=0.8)

    def smooth(probe: LayerStat, value: float) -> float:
        numbers = MeanVar(torch.tensor([value]), torch.tensor([value + 1]))
        (seen,) = here.smooth([probe], [numbers])
        assert seen.var.item() == pytest.approx(seen.mean.item() + 1)
        return seen.mean.item()

    assert smooth(one, 1.0) == pytest.approx(1.0)
    assert smooth(two, 5.0) == pytest.approx(5.0)
    assert smooth(one, 2.0) == pytest.approx(0.8 * 1 + 0.2 * 2)
    assert smooth(two, 0.0) == pytest.approx(0.8 * 5)


def test_without_momentum_nothing_is_smoothed() -> None:
    teacher = teacher_of("test_resnet", size=24)
    here = watch_of(teacher, gvbsm())
    _, seen = teacher.forward_with_stats(torch.randn(2, 3, 24, 24), tuple(here.targets))
    assert here.smooth(tuple(here.targets), seen) is seen


def test_convolutions_are_dropped_whole_and_as_often_as_asked() -> None:
    teacher = teacher_of("test_resnet", size=24)
    here = watch_of(teacher, gvbsm(conv_drop_prob=0.4))
    convolutions = [m for m in teacher.network.modules() if isinstance(m, nn.Conv2d)]
    steps, dropped, sizes = 1000, Counter[nn.Module](), Counter[int]()
    for _ in range(steps):
        probes = here.sample_layers()
        assert list(probes) == [probe for probe in here.targets if probe in set(probes)]
        kept = Counter(probe.layer for probe in probes)
        assert set(teacher.bn_layer_stats) <= set(probes)
        assert all(kept[layer] in {0, 2} for layer in convolutions)
        gone = [layer for layer in convolutions if not kept[layer]]
        dropped.update(gone)
        sizes[len(gone)] += 1
    n = steps * len(convolutions)
    # Five standard deviations of a binomial, of the sum and of each.
    assert abs(sum(dropped.values()) - 0.4 * n) < 5 * math.sqrt(n * 0.24)
    assert all(abs(dropped[c] - 400) < 5 * math.sqrt(240) for c in convolutions)
    # One draw for each: the number of dropped ones has the variance of a binomial.
    numbers = np.repeat(list(sizes), list(sizes.values()))
    assert numbers.var() == pytest.approx(0.24 * len(convolutions), rel=0.25)


def test_what_is_dropped_follows_the_units_generator() -> None:
    teacher = teacher_of("test_resnet", size=24)

    def drawn(seed: int) -> list[list[str]]:
        here = watch_of(teacher, gvbsm(conv_drop_prob=0.4), seed=seed)
        return [[probe.name for probe in here.sample_layers()] for _ in range(3)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[0] != drawn(0)[1]


def test_batch_norm_alone_drops_nothing() -> None:
    teacher = teacher_of("test_resnet", size=24)
    here = build_stat_matcher(teacher, gvbsm(conv_drop_prob=0.9, statistics="bn"))
    assert here.sample_layers() == teacher.bn_layer_stats


def test_a_step_without_dropped_convolutions_is_the_rest_of_the_sum() -> None:
    teacher = teacher_of("test_resnet", size=24, double=True)
    images = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    whole = watch_of(teacher, gvbsm())
    _, seen = teacher.forward_with_stats(images, tuple(whole.targets))
    terms = {
        probe: whole.weights[probe] * sum((a - b).norm() for a, b in zip(s, t, strict=True))
        for (probe, t), s in zip(whole.targets.items(), seen, strict=True)
    }
    by_name = {probe.name: float(term) for probe, term in terms.items()}
    recipe = gvbsm(conv_drop_prob=0.5)
    kept = [probe.name for probe in watch_of(teacher, recipe, seed=3).sample_layers()]
    assert len(kept) < len(by_name)
    objective = Objective(recipe, {teacher.name: watch_of(teacher, recipe, seed=3)})
    losses = objective.terms(images, images, LABELS, **alone(teacher))
    expected = sum(by_name[name] for name in kept)
    assert losses[f"bn/{teacher.name}"].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("statistics", ["bn", "bn_conv"])
def test_the_first_layer_in_the_networks_order_weighs_more(statistics: str) -> None:
    teacher = teacher_of("resnet18", size=24)
    here = watch_of(teacher, gvbsm(statistics=statistics, first_bn_multiplier=3.0))
    heavy = [probe.name for probe, weight in here.weights.items() if weight == 3.0]
    assert heavy == (["bn1.bn"] if statistics == "bn" else ["conv1.channels", "conv1.patches"])
    assert set(here.weights.values()) == {1.0, 3.0}
    assert list(here.weights) == list(here.targets)


# -- densification ---------------------------------------------------------------------------


def literal_eigenvalues(images: np.ndarray) -> np.ndarray:
    """Return the spectrum of the Gram matrix of images [n, 3, S, S], S a multiple of 32."""
    n, side = len(images), images.shape[-1] // 32
    rows = np.zeros((n, 3 * 32 * 32))
    for k in range(3 * 32 * 32):
        c, place = divmod(k, 32 * 32)
        i, j = divmod(place, 32)
        square = images[:, c, i * side : (i + 1) * side, j * side : (j + 1) * side]
        rows[:, k] = square.reshape(n, -1).sum(1) / side**2
    return np.linalg.eigvalsh(rows @ rows.T)


def softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max())
    return shifted / shifted.sum()


@pytest.mark.parametrize("size", [32, 64])
def test_densification_equals_the_literal_divergence_of_each_class(size: int) -> None:
    torch.manual_seed(0)
    images = size / 1000 * torch.randn(6, 3, size, size, dtype=torch.float64)
    labels = torch.tensor([5, 2, 5, 9, 2, 5])
    expected = []
    for c in (5, 2, 9):
        e = literal_eigenvalues(images[labels == c].numpy())
        p, q = softmax(e / 4), softmax(e)
        expected.append((p * (np.log(p) - np.log(q))).sum())
    assert expected[0] > 1e-4
    assert expected[1] > 1e-4
    assert expected[2] == 0
    assert data_densification_loss(images, labels).item() == pytest.approx(sum(expected), rel=1e-9)


def test_the_gradient_of_densification_leaves_the_flatter_spectrum_fixed() -> None:
    torch.manual_seed(0)
    images = 0.03 * torch.randn(4, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 1, 0, 1])
    (gradient,) = torch.autograd.grad(data_densification_loss(images, labels), images)
    together = images.detach()[labels == 1].numpy()
    p = softmax(literal_eigenvalues(together) / 4)
    step, direction = 1e-6, np.random.default_rng(0).standard_normal(together.shape)

    def value(x: np.ndarray) -> float:
        return float((p * (np.log(p) - np.log(softmax(literal_eigenvalues(x))))).sum())

    slope = (value(together + step * direction) - value(together - step * direction)) / (2 * step)
    mine = (gradient[labels == 1].numpy() * direction).sum()
    assert mine == pytest.approx(slope, rel=1e-5)
    assert abs(slope) > 1e-3
    assert (gradient[2] == 0).all()


def test_images_that_are_alike_cost_more_than_images_that_differ() -> None:
    torch.manual_seed(0)
    apart = 0.03 * torch.randn(4, 3, 32, 32, dtype=torch.float64)
    alike = apart[:1].expand(4, -1, -1, -1)
    labels = torch.zeros(4, dtype=torch.int64)
    assert data_densification_loss(alike, labels) > 2 * data_densification_loss(apart, labels)


# -- targets ---------------------------------------------------------------------------------


class FewDigits(ImageDataset):
    """The first training digits."""

    def __init__(self, count: int) -> None:
        whole = Digits(24)
        self.name, self.classes, self.image_size = "few", whole.classes, 24
        self.mean, self.std = whole.mean, whole.std
        self._labels = whole.labels("train")[:count]
        self._images = whole.images("train", range(count))

    def labels(self, split: Split) -> np.ndarray:
        return self._labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        return self._images[list(indices)]


@pytest.mark.parametrize("shift", [0, 2])
def test_targets_are_the_mean_over_batches_augmented_as_in_training(shift: int) -> None:
    few = FewDigits(22)
    teacher = teacher_of("test_byobnet", size=24).double()
    plan = Squeeze.model_validate({"epochs": 1, "batch": 8, "max_shift": shift})
    probes = conv_layer_stats(teacher.network, PATCH)
    device = torch.device("cpu")
    single = teacher_of("test_byobnet", size=24)
    measured = collect_conv_stats(
        single, conv_layer_stats(single.network, PATCH), few, plan, device, seed=11
    )
    assert list(measured) == [probe.name for probe in probes]

    sums: dict[str, list[Tensor]] = {}
    with seeded(11, device):
        order = torch.randperm(22).tolist()
        for batch in (order[:8], order[8:16]):  # the last six are left out
            pixels = few.images("train", batch).double() / 255
            images = (pixels - few.mean[0]) / few.std[0]
            if shift:
                down, right = torch.randint(0, 2 * shift + 1, (2,)).tolist()
                rows = [min(max(i + down - shift, 0), 23) for i in range(24)]
                columns = [min(max(j + right - shift, 0), 23) for j in range(24)]
                images = images[:, :, rows][:, :, :, columns]
            _, inputs = stat_networks(teacher, [probe.layer for probe in probes], images)
            for probe in probes:
                values = inputs[probe.layer]
                found = literal_patches(values, PATCH) if probe.patch else literal_channels(values)
                sums.setdefault(probe.name, [torch.zeros(()), torch.zeros(())])
                sums[probe.name] = [a + b / 2 for a, b in zip(sums[probe.name], found, strict=True)]
    for name, (mean, var) in sums.items():
        assert torch.allclose(measured[name].mean.double(), mean, rtol=1e-4, atol=1e-5), name
        assert torch.allclose(measured[name].var.double(), var, rtol=1e-4, atol=1e-5), name


def test_measuring_targets_leaves_the_global_generator_alone() -> None:
    teacher, plan = teacher_of("test_byobnet", size=24), Squeeze.model_validate({"max_shift": 1})
    state = torch.random.get_rng_state()
    few = FewDigits(5)  # fewer than a batch: one batch of all of them
    cpu = torch.device("cpu")
    first = collect_conv_stats(teacher, teacher.bn_layer_stats, few, plan, cpu, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.isfinite(value).all() for pair in first.values() for value in pair)
    assert all(pair.var.sum() > 0 for pair in first.values())


# -- scales ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "layers", "channels", "real"])
def test_normalisation_counts_the_statistics_of_convolutions_too(kind: str) -> None:
    recipe = gvbsm(bn_normalize=kind, bn_weights={"test_byobnet": 2.0})
    one, two = (teacher_of(n, size=24, double=True) for n in ("test_resnet", "test_byobnet"))
    torch.manual_seed(5)
    real = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    matchers = [watch_of(teacher, recipe) for teacher in (one, two)]
    asked: list[int] = []

    def real_images() -> Tensor:
        asked.append(1)
        return real

    def size(teacher: Teacher) -> float:
        targets = conv_targets_of(teacher)
        layers = [m for m in teacher.network.modules() if isinstance(m, nn.BatchNorm2d)]
        if kind == "layers":  # every pair of mean and variance is one
            return len(layers) + len(targets)
        if kind == "channels":
            numbers = sum(layer.num_features for layer in layers)
            return numbers + sum(len(target.mean) for target in targets.values())
        return literal_gvbsm(real, teacher, targets, 10.0)[1].item()

    factor = 1.0 if kind == "none" else size(one) / size(two)
    scales = bn_loss_scales(recipe, matchers[0], matchers, real_images)
    assert scales == pytest.approx({"test_resnet": 1.0, "test_byobnet": 2 * factor}, rel=1e-9)
    assert len(asked) == (kind == "real")
    assert abs(factor - 1) > 0.01 or kind == "none"


def test_a_network_without_statistics_has_no_scale() -> None:
    recipe = load_recipe("prism_reference", {"bn_normalize": "layers"})
    matchers = [build_stat_matcher(teacher_of(n), recipe) for n in ("test_resnet", "test_convnext")]
    assert bn_loss_scales(recipe, matchers[0], matchers, lambda: torch.zeros(0)) == {
        "test_resnet": 1.0
    }


def test_alignment_is_not_squared() -> None:
    seen = [MeanVar(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]))]
    targets = [MeanVar(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 3.0]))]
    assert bn_stats_loss(seen, targets, [10.0]).item() == pytest.approx(10 * (5 + 2))


def test_terms_without_a_weight_need_not_be_there() -> None:
    losses = {"logit/a": torch.tensor(1.0), "logit/b": torch.tensor(3.0), "bn/a": torch.tensor(5.0)}
    assert weighted_sum(losses, term_weights(losses, gvbsm(r_bn=0.1), {})).item() == pytest.approx(
        2 + 0.5
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pass_for_statistics_alone_sees_the_same_and_ends_behind_the_last_layer(
    name: str,
) -> None:
    teacher = teacher_of(name, double=True)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    reached: list[str] = []
    head = [m for m in teacher.network.modules() if isinstance(m, nn.Linear)][-1]
    head.register_forward_hook(lambda *_: reached.append("head"))
    whole = teacher.forward_with_stats(images)[1]
    assert reached == ["head"]
    alone = teacher.stats_only(images, teacher.bn_layer_stats)
    assert reached == ["head"]
    for one, other in zip(whole, alone, strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.var, other.var)
    loss = torch.stack([s.var.sum() + s.mean.square().sum() for s in whole]).sum()
    lone = torch.stack([s.var.sum() + s.mean.square().sum() for s in alone]).sum()
    (expected,) = torch.autograd.grad(loss, images)
    (gradient,) = torch.autograd.grad(lone, images)
    assert torch.equal(gradient, expected)
    assert teacher(images).shape == (3, 10)
    assert reached == ["head", "head"]
