"""Mean and variance of layer inputs: which to measure, their computation and capture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


class MeanVar(NamedTuple):
    """Mean and biased variance of a layer's input, each [channels], or [patches]."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class LayerStat:
    """The mean and variance of one layer's input, as a statistic to measure."""

    name: str  # the layer's dotted name in its network, and the kind of statistic
    layer: nn.Module
    patch: int = 0  # side of square patches in pixels of the feature map; 0: statistics per channel

    def measure(self, inputs: Tensor) -> MeanVar:
        """Compute the statistics of the layer's input [N, C, H, W].

        Per channel: over batch and space. Per patch: over the batch, the channels and the
        patch's pixels, after the map is stretched to a multiple of the patch (G-VBSM, CVPR 2024,
        generalised statistical matching, and its code).
        """
        if self.patch:
            return patch_mean_var(inputs, self.patch)
        return channel_mean_var(inputs)


def bn_layer_stats(network: nn.Module) -> tuple[LayerStat, ...]:
    """Return the statistics that BN tracks: one per BatchNorm2d layer, in the network's order."""
    return tuple(
        LayerStat(f"{name}.bn", layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    )


def conv_layer_stats(network: nn.Module, patch: int) -> tuple[LayerStat, ...]:
    """Return two statistics per Conv2d layer: of its input's channels, and of its patches.

    `patch` is the side of the square patches, in pixels of the feature map.
    """
    return tuple(
        stat
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        for stat in (
            LayerStat(f"{name}.channels", layer),
            LayerStat(f"{name}.patches", layer, patch),
        )
    )


class StopForward(Exception):  # noqa: N818 (not an error: it ends a pass that is no longer needed)
    """All that is measured is known."""


@contextmanager
def capture_stats(
    stats: Sequence[LayerStat], *, stop_early: bool = False
) -> Iterator[dict[LayerStat, MeanVar]]:
    """Measure statistics during the forward passes of a `with` block.

    The dict that the block gets is filled by each pass, so it ends with the last pass's values.
    With `stop_early`, the block ends as soon as all are measured, which saves the layers behind.
    """
    measured: dict[LayerStat, MeanVar] = {}

    def measure(stat: LayerStat, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        measured[stat] = stat.measure(inputs[0])
        if stop_early and len(measured) == len(stats):
            raise StopForward

    hooks = [stat.layer.register_forward_pre_hook(partial(measure, stat)) for stat in stats]
    try:
        with suppress(StopForward):
            yield measured
    finally:
        for hook in hooks:
            hook.remove()


def channel_mean_var(values: Tensor) -> MeanVar:
    """Return mean and biased variance over all dimensions but the second.

    The gradient with respect to an element x is dL/dmean / n + 2 (x - mean) dL/dvar / n, with n
    elements per mean: a multiple of x plus a constant, which is one fused product. Autograd would
    take half a dozen passes over the largest tensor of a step.

    Args:
        values: [N, C, ...]; channels-last is fastest.

    Returns:
        Mean and variance, each [C], in float32, or in float64 for float64 values.
    """
    return MeanVar(*_ChannelMeanVar.apply(values))


class _ChannelMeanVar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = _mean_var(values)
        ctx.save_for_backward(values, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors  # type: ignore[attr-defined]
        count = values.numel() // values.shape[1]
        shape = (1, -1, *[1] * (values.ndim - 2))
        if values.dtype != mean.dtype:
            # In half precision, two large products would round away the difference to the mean.
            near = mean.to(values.dtype)
            values, mean = values - near.view(shape), mean - near
        factor = 2 / count * grad_var
        constant = grad_mean / count - mean * factor
        return torch.addcmul(
            constant.to(values.dtype).view(shape), values, factor.to(values.dtype).view(shape)
        )


def _mean_var(values: Tensor) -> tuple[Tensor, Tensor]:
    is_half = values.dtype in {torch.bfloat16, torch.float16}
    if values.device.type != "cpu":
        full = values.float() if is_half else values
        var, mean = torch.var_mean(full, [0, *range(2, values.ndim)], correction=0)
        return mean, var
    # On a CPU, var_mean reduces channels-last tensors twenty times slower than the kernel of batch
    # norm, whose results have the precision of the running statistics that it is given.
    running_mean = running_var = None
    if is_half:
        running_mean, running_var = values.new_zeros(2, values.shape[1], dtype=torch.float32)
    return torch.batch_norm_update_stats(values, running_mean, running_var, 0.0)


def patch_mean_var(values: Tensor, patch: int) -> MeanVar:
    """Return mean and biased variance of each square patch of maps, over batch and channels too.

    They are computed per pixel and then pooled. All pixels of a patch have equally many values, so
    the patch's variance is the mean of its pixels' variances plus the variance of their means.
    `patch` is their side in pixels; maps [N, C, H, W] are stretched to a multiple of it.

    Returns:
        Mean and variance, each [patches].
    """
    height, width = (-(-side // patch) * patch for side in values.shape[-2:])
    if (height, width) != values.shape[-2:]:
        values = functional.interpolate(values, size=(height, width), mode="bilinear")
    pixels = channel_mean_var(values.permute(0, 2, 3, 1).flatten(1, 2))
    means, variances = (_tiles(each.view(height, width), patch) for each in pixels)
    var_of_means, mean = torch.var_mean(means, dim=1, correction=0)
    return MeanVar(mean, variances.mean(1) + var_of_means)


def _tiles(pixels: Tensor, patch: int) -> Tensor:
    """Cut a map [H, W] into patches: [patches, patch * patch]."""
    tiles = pixels.unflatten(1, (-1, patch)).unflatten(0, (-1, patch))  # rows, p, columns, p
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)
