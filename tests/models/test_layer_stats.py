"""Mean and variance of layer inputs, against the formula and finite differences."""

import pytest
import torch
from torch import Tensor, nn

from prism_nb.models.layer_stats import (
    LayerStat,
    bn_layer_stats,
    capture_stats,
    channel_mean_var,
    conv_layer_stats,
)
from tests.helpers.objectives import literal_patches
from tests.helpers.teachers import teacher_of


def literal(values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both in float64, channel by channel."""
    columns = values.double().transpose(0, 1).flatten(1)
    mean = torch.stack([column.sum() / len(column) for column in columns])
    var = [((column - m) ** 2).sum() / len(column) for column, m in zip(columns, mean, strict=True)]
    return mean, torch.stack(var)


@pytest.mark.parametrize("offset", [5, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_inputs_get_full_precision_statistics(
    dtype: torch.dtype, offset: int
) -> None:
    torch.manual_seed(0)
    values = (2 * torch.randn(8, 16, 20, 20) + offset).to(dtype)
    values = values.contiguous(memory_format=torch.channels_last).requires_grad_()
    mean, var = channel_mean_var(values)
    assert mean.dtype == var.dtype == torch.float32
    true_mean, true_var = literal(values.detach())
    torch.testing.assert_close(mean.double(), true_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(var.double(), true_var, rtol=3e-4, atol=0)
    (mean.sum() + var.sum()).backward()
    assert values.grad is not None
    assert values.grad.dtype == dtype
    count = values.numel() / 16
    true_grad = (1 + 2 * (values.detach().double() - true_mean.view(1, -1, 1, 1))) / count
    # The gradient is rounded to the inputs' type; far from 0, it must lose no more than that.
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    assert (values.grad.double() - true_grad).norm() < tolerance * true_grad.norm()


@pytest.mark.parametrize(("height", "width", "side"), [(4, 6, 2), (5, 7, 3), (1, 1, 4), (3, 8, 4)])
def test_patch_statistics_are_the_explicit_sums(height: int, width: int, side: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, height, width, dtype=torch.float64)
    found = LayerStat("here", nn.Identity(), side).measure(values)
    torch.testing.assert_close(tuple(found), literal_patches(values, side), rtol=1e-10, atol=1e-13)


def test_layers_are_listed_in_the_networks_order() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    assert [stat.name for stat in bn_layer_stats(network)] == ["1.bn"]
    found = conv_layer_stats(network, 4)
    assert [stat.name for stat in found] == ["0.channels", "0.patches", "2.channels", "2.patches"]
    assert [stat.patch for stat in found] == [0, 4, 0, 4]


def test_a_pass_that_stops_early_runs_no_later_layer() -> None:
    teacher = teacher_of("test_resnet")
    head = next(m for m in teacher.modules() if isinstance(m, nn.Linear))
    calls: list[int] = []
    head.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 32, 32)
    with capture_stats(teacher.bn_layer_stats) as whole:
        teacher(images)
    assert len(calls) == 1
    with capture_stats(teacher.bn_layer_stats, stop_early=True) as stopped:
        teacher(images)
    assert len(calls) == 1
    assert all(torch.equal(whole[stat].var, stopped[stat].var) for stat in whole)


def test_no_hook_is_left_after_an_error() -> None:
    layer = nn.BatchNorm2d(3)
    with pytest.raises(ZeroDivisionError), capture_stats(bn_layer_stats(nn.Sequential(layer))):
        raise ZeroDivisionError
    assert not layer._forward_pre_hooks  # there is no public way to list hooks
