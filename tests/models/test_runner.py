"""Engines and precisions: the same losses to rounding, and a clear word where one cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from prism_nb.core.config import load_settings
from prism_nb.core.device import check_compiler, check_precision, disable_malloc_trim, tf32_mode
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.data.augment import AugParams
from prism_nb.execution.open_run import preflight
from prism_nb.models import runner
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.synthesis.loop import recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, build_stat_matcher
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from tests.helpers.teachers import ARCHITECTURES, teacher_of

CPU = torch.device("cpu")
BOUNDS = (torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 2.0))


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture graphs and differentiate them as the compiler does, but make no new kernels.

    A graph that is captured a second time is an error.
    """
    monkeypatch.setattr(runner.torch, "compile", partial(torch.compile, backend="aot_eager"))
    runner._compiled.cache_clear()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def losses_of(
    teachers: list[Teacher], draws: TeacherSchedule, steps: int, **how: Any
) -> list[list[float]]:
    """Optimise four images and return every term of every step, with 0 for those not taken."""
    recipe = load_recipe("prism", {"iterations": steps, "lr": 0.05, "r_bn": 0.1, "jitter": 4})
    matchers = {teacher.name: build_stat_matcher(teacher, recipe, **how) for teacher in teachers}
    names = [f"{kind}/{name}" for kind in ("logit", "bn") for name in matchers]
    seen = recover_with(MicroBatchedBackward(Objective(recipe, matchers)), draws, recipe)
    return [[float(losses.get(name, 0)) for name in names] for losses in seen]


def recover_with(
    gradient: MicroBatchedBackward, draws: TeacherSchedule, recipe: Recipe
) -> list[Mapping[str, Any]]:
    """Optimise four images and return the losses of every step."""
    seen: list[Mapping[str, Any]] = []
    generator = torch.Generator().manual_seed(0)
    recover(
        torch.randn(4, 3, 32, 32, generator=generator),
        torch.arange(4),
        gradient=gradient,
        draws=draws,
        recipe=recipe,
        bounds=BOUNDS,
        generator=generator,
        on_step=lambda _, losses: seen.append(dict(losses)),
    )
    return seen


def intra_draws() -> TeacherSchedule:
    """Return teams that change every step and use each network with others and alone."""
    first, *others = ARCHITECTURES
    bn_teachers = tuple((first, name) for name in others)
    return TeacherSchedule(1, (*bn_teachers, (first,), (first, *others)), (first,))


class Beside(MicroBatchedBackward):
    """Goes the eager engine's way, and shows the compiled one the same images at every step.

    On two ways of their own they would drift apart as images do that differ in their last bit,
    which says more of the optimisation than of the engines.
    """

    def __init__(self, eager: Objective, compiled: Objective) -> None:
        super().__init__(eager)
        self._compiled, self.steps = MicroBatchedBackward(compiled), 0

    def __call__(self, groups: Any, views: Any, labels: Any, **who: Any) -> dict[str, torch.Tensor]:
        twins = [group.detach().clone().requires_grad_() for group in groups]
        found = self._compiled(twins, views, labels, **who)
        expected = super().__call__(groups, views, labels, **who)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        for twin, group in zip(twins, groups, strict=True):
            apart = (twin.grad - group.grad).norm() / group.grad.norm()
            assert float(apart) < 1e-4
        self.steps += 1
        return expected


@pytest.mark.usefixtures("captured")
def test_compiled_losses_and_gradients_are_the_eager_ones_at_every_step() -> None:
    teachers = [teacher_of(name) for name in ARCHITECTURES]
    recipe = load_recipe("prism", {"iterations": 50, "lr": 0.05, "r_bn": 0.1, "jitter": 4})
    eager, compiled = (
        Objective(
            recipe, {t.name: build_stat_matcher(t, recipe, compiled=engine) for t in teachers}
        )
        for engine in (False, True)
    )
    gradient = Beside(eager, compiled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a network that fell back to eager would warn
        recover_with(gradient, intra_draws(), recipe)
    assert gradient.steps == 50


@pytest.mark.usefixtures("captured")
def test_a_network_is_compiled_once_for_all_units_and_teams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []

    class Counted(runner._Compiled):
        def __init__(self, holdout_network: runner._Observer) -> None:
            built.append(holdout_network.twin.name)
            super().__init__(holdout_network)

    monkeypatch.setattr(runner, "_Compiled", Counted)
    teachers = [teacher_of("resnet18"), teacher_of("shufflenet_v2_x0_5")]
    names = tuple(teacher.name for teacher in teachers)
    for draws in (
        TeacherSchedule(1, ((names[0],), names), names[:1]),
        TeacherSchedule(4, (names,), names[:1]),
    ):
        losses_of(teachers, draws, 4, compiled=True)
    assert sorted(built) == sorted(names)


@pytest.mark.usefixtures("captured")
def test_dropped_probes_are_not_compiled_anew() -> None:
    teacher = teacher_of("resnet18")
    probes = [*teacher.bn_layer_stats, *conv_layer_stats(teacher.network, 4)]
    compiled = runner.CompiledTeacherRunner(teacher, probes)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    for asked in (probes, probes[3:9], probes[::-1]):
        _, seen = compiled.forward_with_stats(images, asked)
        _, expected = teacher.forward_with_stats(images, asked)
        for mine, theirs in zip(seen, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.usefixtures("captured")
def test_large_views_have_one_layout_whatever_their_shift() -> None:
    """Else a network is captured again at the first step whose shift is 0."""
    teacher = teacher_of("test_resnet", size=128)
    recipe = load_recipe("prism", {"r_bn": 0.1})
    objective = Objective(
        recipe, {teacher.name: build_stat_matcher(teacher, recipe, compiled=True)}
    )
    images = torch.randn(2, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    for shift in ((3, 5), (0, 5), (3, 0), (0, 0)):
        MicroBatchedBackward(objective)(
            [images.requires_grad_()],
            [AugParams((0, 0, 128, 128), flip=False, shift=shift)],
            torch.tensor([0, 1]),
            logit_teachers=[teacher.name],
            bn_teachers=[teacher.name],
        )


def test_other_sizes_of_a_batch_are_compiled_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.torch, "compile", partial(torch.compile, backend="aot_eager"))
    runner._compiled.cache_clear()
    teacher = teacher_of("test_resnet")
    compiled = runner.CompiledTeacherRunner(teacher, teacher.bn_layer_stats)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (6, 4, 1):
            images = torch.randn(size, 3, 32, 32, requires_grad=True)
            with torch.no_grad():
                expected = teacher.stats_only(images, teacher.bn_layer_stats)
            for given in (images, images.detach()):
                seen = compiled.stats_only(given, teacher.bn_layer_stats)
                for mine, theirs in zip(seen, expected, strict=True):
                    torch.testing.assert_close(tuple(mine), tuple(theirs))


def test_the_real_compiler_gives_the_same_gradient() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip
    space = PreprocessConfig((0.5,) * 3, (0.25,) * 3, 16)
    teacher = Teacher("small", network, native=space, dataset=space)
    images = torch.randn(5, 3, 16, 16)
    gradients = []
    for look in (
        runner.TeacherRunner(teacher),
        runner.CompiledTeacherRunner(teacher, teacher.bn_layer_stats),
    ):
        leaf = images.clone().requires_grad_()
        logits, seen = look.forward_with_stats(leaf, teacher.bn_layer_stats)
        (logits.square().sum() + seen[0].mean.norm() + seen[0].var.norm()).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def refuse(*_: object) -> None:
    raise NotImplementedError("no kernel for this")


def test_a_network_that_cannot_be_compiled_runs_eagerly_after_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner.torch, "compile", partial(torch.compile, backend=refuse))
    runner._compiled.cache_clear()
    teacher = teacher_of("resnet18")
    draws = TeacherSchedule(1, (("resnet18",),), ("resnet18",))
    with pytest.warns(UserWarning, match="'resnet18' cannot be compiled and runs eagerly") as seen:
        losses = losses_of([teacher], draws, 3, compiled=True)
    assert len(seen) == 1
    assert losses == losses_of([teacher], draws, 3)


def test_bf16_answers_in_full_precision_and_nearly_the_same() -> None:
    teacher = teacher_of("resnet18")
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    kinds: list[torch.dtype] = []
    teacher.network.layer1.register_forward_pre_hook(lambda _, given: kinds.append(given[0].dtype))
    half = runner.TeacherRunner(teacher, "bf16").forward_with_stats(images, teacher.bn_layer_stats)
    full = runner.TeacherRunner(teacher).forward_with_stats(images, teacher.bn_layer_stats)
    assert kinds == [torch.bfloat16, torch.float32]
    assert half[0].dtype == torch.float32
    assert 0 < (half[0] - full[0]).norm() < 0.05 * full[0].norm()
    for mine, theirs in zip(half[1], full[1], strict=True):
        assert mine.mean.dtype == mine.var.dtype == torch.float32
        assert (mine.var - theirs.var).norm() < 0.05 * theirs.var.norm()


def test_a_gpus_matrix_precision_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    for precision, word in (("fp32", "ieee"), ("tf32", "tf32")):
        with tf32_mode(precision, torch.device("cuda")):
            assert [place.fp32_precision for place in places] == [word, word]
        assert [place.fp32_precision for place in places] == before


def test_what_a_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_precision("fp32", CPU)
    with pytest.raises(UsageError, match="precision tf32 was asked for, but cpu lacks it"):
        check_precision("tf32", CPU)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(UsageError, match="precision bf16 .* use fp32"):
        preflight(load_settings("digits_quick", {"precision": "bf16", "device": "cpu"}))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler(CPU)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler, .* or use engine eager"):
        preflight(load_settings("digits_quick", {"compile": "always", "device": "cpu"}))


def test_a_micro_batch_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="micro_batch_size: 51 is more than batch_size 50"):
        load_settings("digits_quick", {"micro_batch_size": 51, "batch_size": 50})


def test_keeping_freed_memory_changes_no_result() -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 64)
    before = values @ values
    disable_malloc_trim()
    assert torch.equal(values @ values, before)
