"""Passes of teachers, eager and compiled: equal to rounding, and compiled once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from prism_nb.models import runner
from prism_nb.models.layer_stats import LayerStat, conv_layer_stats
from prism_nb.models.runner import TeacherRunner
from prism_nb.models.teacher import PreprocessConfig, Teacher
from tests.helpers.teachers import teacher_of


@pytest.fixture(autouse=True)
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Capture graphs and differentiate them as the compiler does, but make no new kernels.

    Every fallback to eager passes is an error.
    """
    monkeypatch.setattr(runner.torch, "compile", partial(torch.compile, backend="aot_eager"))
    runner._compiled_forward.cache_clear()  # else tests would share compiled networks
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def no_recompile() -> Iterator[None]:
    """Make it an error that a graph is captured a second time."""
    with torch._dynamo.config.patch(error_on_recompile=True):  # there is no public switch
        yield


def small_teacher() -> Teacher:
    """Return a teacher of three convolutions, at 16 pixels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 6), (6, 8), (8, 8)):
        layers += [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    preprocess = PreprocessConfig((0.5,) * 3, (0.25,) * 3, 16)
    return Teacher("small", network, native=preprocess, dataset=preprocess)


def compiled_runner(teacher: Teacher, stats: Sequence[LayerStat]) -> TeacherRunner:
    return TeacherRunner(teacher, compiled_stats=tuple(stats))


def losses_and_gradient(
    runner_: TeacherRunner, images: Tensor, stats: list[LayerStat], *, with_logits: bool = True
) -> tuple[list[Tensor], Tensor]:
    leaf = images.clone().requires_grad_()
    if with_logits:
        logits, measured = runner_.forward_with_stats(leaf, stats)
    else:
        logits, measured = leaf.new_zeros(()), runner_.stats_only(leaf, stats)
    terms = [logits.square().sum(), *(part.norm() for pair in measured for part in pair)]
    torch.stack(terms).sum().backward()
    assert leaf.grad is not None
    return terms, leaf.grad


@pytest.mark.usefixtures("no_recompile")
def test_compiled_passes_equal_eager_ones() -> None:
    teacher = small_teacher()
    stats = [*teacher.bn_layer_stats, *conv_layer_stats(teacher.network, 4)]
    eager, compiled = TeacherRunner(teacher), compiled_runner(teacher, stats)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 16, 16)
    for asked in (stats, stats[2:5], stats[::-1]):  # fewer or others are not compiled anew
        for with_logits in (True, False):
            found, expected = (
                losses_and_gradient(each, images, asked, with_logits=with_logits)
                for each in (compiled, eager)
            )
            torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)
            assert (found[1] - expected[1]).norm() < 1e-4 * expected[1].norm()


def test_batches_of_other_sizes_are_compiled_too() -> None:
    teacher = small_teacher()
    stats = list(teacher.bn_layer_stats)
    compiled = compiled_runner(teacher, stats)
    torch.manual_seed(0)
    for size in (6, 4, 1):
        images = torch.randn(size, 3, 16, 16)
        expected = teacher.stats_only(images, stats)
        for given in (images, images.clone().requires_grad_()):
            for mine, theirs in zip(compiled.stats_only(given, stats), expected, strict=True):
                torch.testing.assert_close(tuple(mine), tuple(theirs))


def test_a_network_is_compiled_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = runner.torch.compile

    def count(network: nn.Module, **options: object) -> object:
        compiled.append(type(network).__name__)
        return compile_(network, **options)

    monkeypatch.setattr(runner.torch, "compile", count)
    teacher = teacher_of("test_resnet")
    for _ in range(2):  # two units of a run
        unit = compiled_runner(teacher, teacher.bn_layer_stats)
        for _ in range(2):
            unit.forward_with_stats(torch.randn(2, 3, 32, 32), teacher.bn_layer_stats[:3])
    assert len(compiled) == 1


def test_the_real_compiler_gives_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    teacher = small_teacher()
    stats, images = list(teacher.bn_layer_stats), torch.randn(5, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        compiled = losses_and_gradient(compiled_runner(teacher, stats), images, stats)[1]
    eager = losses_and_gradient(TeacherRunner(teacher), images, stats)[1]
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)


def test_a_network_that_cannot_be_compiled_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no kernel for this")

    monkeypatch.undo()
    monkeypatch.setattr(runner.torch, "compile", partial(torch.compile, backend=refuse))
    teacher = teacher_of("test_resnet")
    stats, images = list(teacher.bn_layer_stats), torch.randn(2, 3, 32, 32)
    compiled = compiled_runner(teacher, stats)
    with pytest.warns(
        UserWarning, match="'test_resnet' cannot be compiled and runs eagerly"
    ) as seen:
        found = [losses_and_gradient(compiled, images, stats)[1] for _ in range(3)]
    assert len(seen) == 1
    expected = losses_and_gradient(TeacherRunner(teacher), images, stats)[1]
    assert all(torch.equal(gradient, expected) for gradient in found)


def test_bf16_layers_give_fp32_results() -> None:
    teacher = teacher_of("test_resnet")
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    dtypes: list[torch.dtype] = []
    teacher.network.layer1.register_forward_pre_hook(lambda _, x: dtypes.append(x[0].dtype))
    half, full = (
        TeacherRunner(teacher, precision).forward_with_stats(images, teacher.bn_layer_stats)
        for precision in ("bf16", "fp32")
    )
    assert dtypes == [torch.bfloat16, torch.float32]
    assert half[0].dtype == torch.float32
    assert 0 < (half[0] - full[0]).norm() < 0.05 * full[0].norm()
    for mine, theirs in zip(half[1], full[1], strict=True):
        assert mine.mean.dtype == mine.var.dtype == torch.float32
        assert (mine.var - theirs.var).norm() < 0.05 * theirs.var.norm()
