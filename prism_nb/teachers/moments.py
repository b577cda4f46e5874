"""Mean and variance of a layer's input, one pass over it forward and one back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over all dimensions but the second.

    The gradient by an element x is dL/dmean / n + 2 (x - mean) dL/dvar / n, with n elements per
    mean: a multiple of x and a constant, so that one fused product gives it. Autograd would take
    half a dozen passes over what is the largest tensor of a step.

    Args:
        values: [N, C, ...], channels last for speed.

    Returns:
        Mean and variance, each [C], in float32 or, of float64, in float64.
    """
    mean, var = _Moments.apply(values)
    return mean, var


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = _measure(values)
        ctx.save_for_backward(values, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, by_mean: Tensor, by_var: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors  # type: ignore[attr-defined]
        count = values.numel() // values.shape[1]
        slope = 2 / count * by_var
        constant = by_mean / count - mean * slope
        shape = (1, -1, *[1] * (values.ndim - 2))
        return torch.addcmul(
            constant.to(values.dtype).view(shape), values, slope.to(values.dtype).view(shape)
        )


def _measure(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance in full precision."""
    if values.device.type != "cpu":
        full = values.float() if _is_half(values) else values
        var, mean = torch.var_mean(full, [0, *range(2, values.ndim)], correction=0)
        return mean, var
    # var_mean reduces channels-last tensors twenty times slower than batch norm's own kernel
    mean_kept = var_kept = None
    if _is_half(values):  # it answers in the precision of the running statistics it is given
        mean_kept, var_kept = values.new_zeros(2, values.shape[1], dtype=torch.float32)
    return torch.batch_norm_update_stats(values, mean_kept, var_kept, 0.0)


def _is_half(values: Tensor) -> bool:
    return values.dtype in {torch.bfloat16, torch.float16}
