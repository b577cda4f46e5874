"""Statistics of what a network's layers are given: where they are taken, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.teachers.moments import moments


class Statistics(NamedTuple):
    """Mean and biased variance of a layer's input, each [channels], or [patches]."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """One statistic of one layer's input.

    Attributes:
        name: The layer's dotted name in its network, and what is measured there.
        layer: The layer.
        patch: Side of square patches in pixels of the feature map; 0: statistics per channel.
    """

    name: str
    layer: nn.Module
    patch: int = 0

    def measure(self, values: Tensor) -> Statistics:
        """Measure a layer's input [N, C, H, W].

        Per channel: over batch and space. Per patch: over the batch, the channels and the
        patch's pixels, after the map is stretched to a multiple of the patch (G-VBSM, CVPR 2024,
        generalised statistical matching, and its code).
        """
        if self.patch:
            return _patch_moments(values, self.patch)
        return Statistics(*moments(values))


def bn_probes(network: nn.Module) -> tuple[Probe, ...]:
    """Return a probe for the input of every BatchNorm2d layer, in the network's order."""
    return tuple(
        Probe(f"{name}.bn", layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    )


def conv_probes(network: nn.Module, patch: int) -> tuple[Probe, ...]:
    """Return two probes per Conv2d layer: its input's channels, and patches of its input."""
    return tuple(
        probe
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        for probe in (Probe(f"{name}.channels", layer), Probe(f"{name}.patches", layer, patch))
    )


class _SeenEnough(Exception):  # noqa: N818 (no error: it ends a pass that has done its work)
    """Every probe has seen its layer's input, and nobody wants what comes after."""


@contextmanager
def observed(
    probes: Sequence[Probe], *, to_the_end: bool = True
) -> Iterator[dict[Probe, Statistics]]:
    """Fill a dict with what the probes see in forward passes inside; the last pass stays.

    Args:
        probes: Where to measure.
        to_the_end: Whether a pass goes on behind the last probe. If not, it ends the block there.
    """
    seen: dict[Probe, Statistics] = {}

    def collect(probe: Probe, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
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


def running(probes: Sequence[Probe]) -> list[Statistics]:
    """Return the stored statistics of BN probes."""
    return [
        Statistics(_stored(probe, "running_mean"), _stored(probe, "running_var"))
        for probe in probes
    ]


def _stored(probe: Probe, name: str) -> Tensor:
    value = getattr(probe.layer, name, None)
    if not isinstance(value, Tensor):
        raise ValueError(f"{probe.name} has no {name}")
    return value


def _patch_moments(values: Tensor, patch: int) -> Statistics:
    """Measure the patches of maps [N, C, H, W], pixel by pixel and then pooled.

    All pixels of a patch have equally many values, so the variance of them all is the mean of the
    pixels' variances plus the variance of their means.
    """
    height, width = (-(-side // patch) * patch for side in values.shape[-2:])
    if (height, width) != values.shape[-2:]:
        values = functional.interpolate(values, size=(height, width), mode="bilinear")
    mean, var = moments(values.permute(0, 2, 3, 1).flatten(1, 2))
    means, variances = (_tiles(each.view(height, width), patch) for each in (mean, var))
    between, pooled = torch.var_mean(means, dim=1, correction=0)
    return Statistics(pooled, variances.mean(1) + between)


def _tiles(pixels: Tensor, patch: int) -> Tensor:
    """Cut a map [H, W] into patches: [patches, patch * patch]."""
    tiles = pixels.unflatten(1, (-1, patch)).unflatten(0, (-1, patch))  # rows p columns p
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)
