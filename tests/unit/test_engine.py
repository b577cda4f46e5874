"""Engines and precisions: the same losses to rounding, and a clear word where one cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from test_teachers import ARCHITECTURES, teacher_of
from torch import nn

from prism_nb.config import load_settings
from prism_nb.device import (
    keep_freed_memory,
    matrix_precision,
    require_compiler,
    require_precision,
)
from prism_nb.errors import UsageError
from prism_nb.plans import synthesis
from prism_nb.preflight import preflight
from prism_nb.recipes import load_recipe
from prism_nb.recipes.recipe import Recipe
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.synthesis import engine
from prism_nb.synthesis.augment import View
from prism_nb.synthesis.gradient import Gradient
from prism_nb.synthesis.objective import Objective
from prism_nb.synthesis.recover import recover
from prism_nb.synthesis.watch import watch
from prism_nb.teachers import sight
from prism_nb.teachers.selection import Draws
from prism_nb.teachers.statistics import conv_probes
from prism_nb.teachers.teacher import PixelSpace, Teacher

CPU = torch.device("cpu")
BOUNDS = (torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 2.0))


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture graphs and differentiate them as the compiler does, but make no new kernels.

    A graph that is captured a second time is an error.
    """
    monkeypatch.setattr(sight.torch, "compile", partial(torch.compile, backend="aot_eager"))
    sight._compiled.cache_clear()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def losses_of(teachers: list[Teacher], draws: Draws, steps: int, **how: Any) -> list[list[float]]:
    """Optimise four images and return every term of every step, with 0 for those not taken."""
    recipe = load_recipe("prism", {"iterations": steps, "lr": 0.05, "bn_weight": 0.1, "roll": 4})
    watches = {teacher.name: watch(teacher, recipe, **how) for teacher in teachers}
    names = [f"{kind}/{name}" for kind in ("logit", "bn") for name in watches]
    seen = recover_with(Gradient(Objective(recipe, watches)), draws, recipe)
    return [[float(losses.get(name, 0)) for name in names] for losses in seen]


def recover_with(gradient: Gradient, draws: Draws, recipe: Recipe) -> list[Mapping[str, Any]]:
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


def intra_draws() -> Draws:
    """Return teams that change every step and use each network with others and alone."""
    first, *others = ARCHITECTURES
    teams = tuple((first, name) for name in others)
    return Draws(1, (*teams, (first,), (first, *others)), (first,))


class Beside(Gradient):
    """Goes the eager engine's way, and shows the compiled one the same images at every step.

    On two ways of their own they would drift apart as images do that differ in their last bit,
    which says more of the optimisation than of the engines.
    """

    def __init__(self, eager: Objective, compiled: Objective) -> None:
        super().__init__(eager)
        self._compiled, self.steps = Gradient(compiled), 0

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
    recipe = load_recipe("prism", {"iterations": 50, "lr": 0.05, "bn_weight": 0.1, "roll": 4})
    eager, compiled = (
        Objective(recipe, {t.name: watch(t, recipe, compiled=engine) for t in teachers})
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

    class Counted(sight._Compiled):
        def __init__(self, observer: sight._Observer) -> None:
            built.append(observer.twin.name)
            super().__init__(observer)

    monkeypatch.setattr(sight, "_Compiled", Counted)
    teachers = [teacher_of("resnet18"), teacher_of("shufflenet_v2_x0_5")]
    names = tuple(teacher.name for teacher in teachers)
    for draws in (Draws(1, ((names[0],), names), names[:1]), Draws(4, (names,), names[:1])):
        losses_of(teachers, draws, 4, compiled=True)
    assert sorted(built) == sorted(names)


@pytest.mark.usefixtures("captured")
def test_dropped_probes_are_not_compiled_anew() -> None:
    teacher = teacher_of("resnet18")
    probes = [*teacher.bn_probes, *conv_probes(teacher.network, 4)]
    compiled = sight.CompiledSight(teacher, probes)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    for asked in (probes, probes[3:9], probes[::-1]):
        _, seen = compiled.observe(images, asked)
        _, expected = teacher.observe(images, asked)
        for mine, theirs in zip(seen, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.usefixtures("captured")
def test_large_views_have_one_layout_whatever_their_shift() -> None:
    """Else a network is captured again at the first step whose shift is 0."""
    teacher = teacher_of("test_resnet", size=128)
    recipe = load_recipe("prism", {"bn_weight": 0.1})
    objective = Objective(recipe, {teacher.name: watch(teacher, recipe, compiled=True)})
    images = torch.randn(2, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    for shift in ((3, 5), (0, 5), (3, 0), (0, 0)):
        Gradient(objective)(
            [images.requires_grad_()],
            [View((0, 0, 128, 128), flip=False, shift=shift)],
            torch.tensor([0, 1]),
            speakers=[teacher.name],
            team=[teacher.name],
        )


def test_other_sizes_of_a_batch_are_compiled_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight.torch, "compile", partial(torch.compile, backend="aot_eager"))
    sight._compiled.cache_clear()
    teacher = teacher_of("test_resnet")
    compiled = sight.CompiledSight(teacher, teacher.bn_probes)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (6, 4, 1):
            images = torch.randn(size, 3, 32, 32, requires_grad=True)
            with torch.no_grad():
                expected = teacher.statistics(images, teacher.bn_probes)
            for given in (images, images.detach()):
                seen = compiled.statistics(given, teacher.bn_probes)
                for mine, theirs in zip(seen, expected, strict=True):
                    torch.testing.assert_close(tuple(mine), tuple(theirs))


def test_the_real_compiler_gives_the_same_gradient() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip
    space = PixelSpace((0.5,) * 3, (0.25,) * 3, 16)
    teacher = Teacher("small", network, own=space, canonical=space)
    images = torch.randn(5, 3, 16, 16)
    gradients = []
    for look in (sight.Sight(teacher), sight.CompiledSight(teacher, teacher.bn_probes)):
        leaf = images.clone().requires_grad_()
        logits, seen = look.observe(leaf, teacher.bn_probes)
        (logits.square().sum() + seen[0].mean.norm() + seen[0].var.norm()).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def refuse(*_: object) -> None:
    raise NotImplementedError("no kernel for this")


def test_a_network_that_cannot_be_compiled_runs_eagerly_after_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sight.torch, "compile", partial(torch.compile, backend=refuse))
    sight._compiled.cache_clear()
    teacher = teacher_of("resnet18")
    draws = Draws(1, (("resnet18",),), ("resnet18",))
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
    half = sight.Sight(teacher, "bf16").observe(images, teacher.bn_probes)
    full = sight.Sight(teacher).observe(images, teacher.bn_probes)
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
        with matrix_precision(precision, torch.device("cuda")):
            assert [place.fp32_precision for place in places] == [word, word]
        assert [place.fp32_precision for place in places] == before


def test_what_a_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_precision("fp32", CPU)
    with pytest.raises(UsageError, match="precision tf32 was asked for, but cpu lacks it"):
        require_precision("tf32", CPU)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(UsageError, match="precision bf16 .* use fp32"):
        preflight(load_settings("digits_quick", {"precision": "bf16", "device": "cpu"}))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler(CPU)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler, .* or use engine eager"):
        preflight(load_settings("digits_quick", {"engine": "compiled", "device": "cpu"}))


def test_a_micro_batch_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="micro_batch: 51 is more than batch_size 50"):
        load_settings("digits_quick", {"micro_batch": 51, "batch_size": 50})


def test_keeping_freed_memory_changes_no_result() -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 64)
    before = values @ values
    keep_freed_memory()
    assert torch.equal(values @ values, before)


class TestAuto:
    """The engine of a run whose setting is `auto`."""

    @staticmethod
    def run_of(tmp_path: Any, settings: Settings, iterations: int) -> tuple[Run, list[Any]]:
        changed = load_settings(
            "digits_quick", {"recipe": {"iterations": iterations}, "device": "cpu"}
        )
        run = Run.create(tmp_path / "auto", changed)
        return run, synthesis.units(run, 10)

    @staticmethod
    def pretend(monkeypatch: pytest.MonkeyPatch, eager: float, compiled: float) -> list[bool]:
        asked: list[bool] = []

        def seconds(*_: object, compiled: bool) -> float:
            asked.append(compiled)
            return costs[compiled]

        costs = {False: eager, True: compiled}
        monkeypatch.setattr(engine, "_seconds", seconds)
        return asked

    def test_a_short_run_is_eager_unmeasured(
        self, tmp_path: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.pretend(monkeypatch, 1e9, 1.0)
        run, units = self.run_of(tmp_path, settings, 10)
        engine.prepare(run, units)
        assert synthesis.chosen_engine(run) == "eager"
        assert not asked
        assert "engine" not in run.manifest()  # it may still grow into a long one

    @pytest.mark.parametrize(
        ("eager", "compiled", "choice", "trials"),
        [
            (100.0, 1.0, "eager", [False]),  # too short for any compiler
            (1e6, 7e5, "compiled", [False, True]),
            (1e6, 1.1e6, "eager", [False, True]),
        ],
    )
    def test_a_long_run_is_compiled_where_that_was_measured_to_pay(
        self,
        tmp_path: Any,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        eager: float,
        compiled: float,
        choice: str,
        trials: list[bool],
    ) -> None:
        asked = self.pretend(monkeypatch, eager, compiled)
        run, units = self.run_of(tmp_path, settings, 100_000)
        engine.prepare(run, units)
        assert synthesis.chosen_engine(run) == choice
        assert asked == trials
        self.pretend(monkeypatch, 1e6, 1e6 if choice == "compiled" else 1.0)
        engine.prepare(run, units)  # decided once
        assert synthesis.chosen_engine(run) == choice

    def test_a_set_engine_needs_no_decision(
        self, tmp_path: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = load_settings("digits_quick", {"engine": "compiled"})
        run = Run.create(tmp_path / "set", changed)
        engine.prepare(run, synthesis.units(run, 10))
        assert synthesis.chosen_engine(run) == "compiled"
        assert "engine" not in run.manifest()
