"""Mean and variance of a layer's input, against the formula and finite differences."""

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor

from prism_nb.models.layer_stats import channel_mean_var


def literal(values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both in float64, channel by channel."""
    columns = values.double().transpose(0, 1).flatten(1)
    mean = torch.stack([column.sum() / len(column) for column in columns])
    spread = [
        ((column - m) ** 2).sum() / len(column) for column, m in zip(columns, mean, strict=True)
    ]
    return mean, torch.stack(spread)


@settings(deadline=None, max_examples=40)
@given(
    shape=strategies.lists(strategies.integers(1, 5), min_size=2, max_size=4),
    last=strategies.booleans(),
    seed=strategies.integers(0, 99),
)
def test_moments_and_their_gradient_are_those_of_the_formula(
    shape: list[int], last: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) + 3
    if last and len(shape) == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    results = []
    for measure in (channel_mean_var, literal):
        leaf = values.clone().requires_grad_()
        found = measure(leaf)
        sum((w * part).sum() for w, part in zip(weights, found, strict=True)).backward()  # type: ignore[union-attr]
        results.append((*found, leaf.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(channel_mean_var, values)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_of_half_precision_are_in_full_precision(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (2 * torch.randn(8, 16, 20, 20) + 5).to(kind)
    values = values.contiguous(memory_format=torch.channels_last).requires_grad_()
    mean, var = channel_mean_var(values)
    assert mean.dtype == var.dtype == torch.float32
    true_mean, true_var = literal(values.detach())
    torch.testing.assert_close(mean.double(), true_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(var.double(), true_var, rtol=3e-4, atol=0)
    (mean.sum() + var.sum()).backward()
    assert values.grad is not None
    assert values.grad.dtype == kind
    count = values.numel() / 16
    shape = (1, -1, 1, 1)
    slope = (1 + 2 * (values.detach().double() - true_mean.view(shape))) / count
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[kind]
    assert (values.grad.double() - slope).norm() < tolerance * slope.norm()
