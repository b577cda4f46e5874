"""Statistics of what a network's layers are given: where they are taken, and how."""

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


@dataclass(frozen=True, eq=False)
class LayerStat:
    """One statistic of one layer's input.

    Attributes:
        name: The layer's dotted name in its network, and what is measured there.
        layer: The layer.
        patch: Side of square patches in pixels of the feature map; 0: statistics per channel.
    """

    name: str
    layer: nn.Module
    patch: int = 0

    def measure(self, values: Tensor) -> MeanVar:
        """Measure a layer's input [N, C, H, W].

        Per channel: over batch and space. Per patch: over the batch, the channels and the
        patch's pixels, after the map is stretched to a multiple of the patch (G-VBSM, CVPR 2024,
        generalised statistical matching, and its code).
        """
        if self.patch:
            return _patch_moments(values, self.patch)
        return MeanVar(*channel_mean_var(values))


def bn_layer_stats(network: nn.Module) -> tuple[LayerStat, ...]:
    """Return a probe for the input of every BatchNorm2d layer, in the network's order."""
    return tuple(
        LayerStat(f"{name}.bn", layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    )


def conv_layer_stats(network: nn.Module, patch: int) -> tuple[LayerStat, ...]:
    """Return two probes per Conv2d layer: its input's channels, and patches of its input."""
    return tuple(
        probe
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        for probe in (
            LayerStat(f"{name}.channels", layer),
            LayerStat(f"{name}.patches", layer, patch),
        )
    )


class _SeenEnough(Exception):  # noqa: N818 (no error: it ends a pass that has done its work)
    """Every probe has seen its layer's input, and nobody wants what comes after."""


@contextmanager
def capture_stats(
    probes: Sequence[LayerStat], *, to_the_end: bool = True
) -> Iterator[dict[LayerStat, MeanVar]]:
    """Fill a dict with what the probes see in forward passes inside; the last pass stays.

    Args:
        probes: Where to measure.
        to_the_end: Whether a pass goes on behind the last probe. If not, it ends the block there.
    """
    seen: dict[LayerStat, MeanVar] = {}

    def collect(probe: LayerStat, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[probe] = probe.measure(inputs[0])
        if not to_the_end and len(seen) == len(probes):
            raise _SeenEnough

    handles = [probe.layer.register_forward_pre_hook(partial(collect, probe)) for probe in probes]
    try:
        with suppress(_SeenEnough):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def running_stats(probes: Sequence[LayerStat]) -> list[MeanVar]:
    """Return the stored statistics of BN probes."""
    return [
        MeanVar(_stored(probe, "running_mean"), _stored(probe, "running_var")) for probe in probes
    ]


def _stored(probe: LayerStat, name: str) -> Tensor:
    value = getattr(probe.layer, name, None)
    if not isinstance(value, Tensor):
        raise ValueError(f"{probe.name} has no {name}")
    return value


def _patch_moments(values: Tensor, patch: int) -> MeanVar:
    """Measure the patches of maps [N, C, H, W], pixel by pixel and then pooled.

    All pixels of a patch have equally many values, so the variance of them all is the mean of the
    pixels' variances plus the variance of their means.
    """
    height, width = (-(-side // patch) * patch for side in values.shape[-2:])
    if (height, width) != values.shape[-2:]:
        values = functional.interpolate(values, size=(height, width), mode="bilinear")
    mean, var = channel_mean_var(values.permute(0, 2, 3, 1).flatten(1, 2))
    means, variances = (_tiles(each.view(height, width), patch) for each in (mean, var))
    between, pooled = torch.var_mean(means, dim=1, correction=0)
    return MeanVar(pooled, variances.mean(1) + between)


def _tiles(pixels: Tensor, patch: int) -> Tensor:
    """Cut a map [H, W] into patches: [patches, patch * patch]."""
    tiles = pixels.unflatten(1, (-1, patch)).unflatten(0, (-1, patch))  # rows p columns p
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)


def channel_mean_var(values: Tensor) -> tuple[Tensor, Tensor]:
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
