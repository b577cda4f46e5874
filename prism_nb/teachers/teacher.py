"""A frozen network that understands the run's pixel space and reports its BN statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.errors import UsageError


class Statistics(NamedTuple):
    """Mean and biased variance of one layer's input over batch and space, each [channels]."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class PixelSpace:
    """How pixels are presented: per-channel mean and std of [0, 1] values, and the image side."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int


class Teacher(nn.Module):
    """A frozen network in evaluation mode, for good.

    Args:
        name: The network's name.
        network: The trained network; it is frozen in place.
        own: The pixel space that it was trained in.
        canonical: The pixel space of the images it will be given.
    """

    def __init__(
        self, name: str, network: nn.Module, *, own: PixelSpace, canonical: PixelSpace
    ) -> None:
        super().__init__()
        self.name = name
        self.network = network.requires_grad_(False)
        self._own = own
        self._canonical = canonical
        self.bn_layers: tuple[nn.BatchNorm2d, ...] = tuple(
            layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)
        )
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: running statistics must never move."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of canonical images [N, 3, H, W]."""
        logits: Tensor = self.network(self.adapt(images))
        return logits

    def observe(self, images: Tensor) -> tuple[Tensor, list[Statistics]]:
        """Return logits, and the batch statistics of every BN layer's input, in one pass.

        Statistics come in the order of `bn_layers` and carry gradients to the images.
        """
        with _bn_statistics(self.bn_layers) as collected:
            logits = self(images)
        return logits, [collected[layer] for layer in self.bn_layers]

    def running(self) -> list[Statistics]:
        """Return the stored statistics of the real data, in the order of `bn_layers`."""
        return [Statistics(_buffer(b.running_mean), _buffer(b.running_var)) for b in self.bn_layers]

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features [N, d]: what the linear head is given."""
        head = [m for m in self.network.modules() if isinstance(m, nn.Linear)][-1:]
        if not head:
            raise UsageError(f"network {self.name!r} has no linear head, so it gives no features")
        seen: list[Tensor] = []
        handle = head[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(images)
        finally:
            handle.remove()
        return seen[0].flatten(1)

    def adapt(self, images: Tensor) -> Tensor:
        """Convert canonical images to the network's own mean, std and size; identity if equal."""
        own, canonical = self._own, self._canonical
        if own.size != canonical.size:
            images = functional.interpolate(
                images, size=(own.size, own.size), mode="bilinear", antialias=True
            )
        if (own.mean, own.std) == (canonical.mean, canonical.std):
            return images
        pixels = images * _channels(canonical.std, images) + _channels(canonical.mean, images)
        return (pixels - _channels(own.mean, images)) / _channels(own.std, images)


def require_bn(name: str, network: nn.Module) -> None:
    """Check that a network can be a BN teacher.

    Raises:
        UsageError: It has no BatchNorm2d layer, or one without running statistics.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers or any(layer.running_mean is None for layer in layers):
        raise UsageError(
            f"network {name!r} has no BN layers with running statistics, so it cannot be a BN "
            "teacher; use it in `observers` or `students`, or choose a network with batch norm"
        )


@contextmanager
def _bn_statistics(
    layers: tuple[nn.BatchNorm2d, ...],
) -> Iterator[dict[nn.Module, Statistics]]:
    collected: dict[nn.Module, Statistics] = {}

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        collected[layer] = Statistics(mean, var)

    handles = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _buffer(value: Tensor | None) -> Tensor:
    if value is None:
        raise UsageError("a BN layer without running statistics cannot be aligned to")
    return value


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)
