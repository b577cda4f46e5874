"""A frozen network that understands the run's pixel space and reports its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.errors import UsageError
from prism_nb.models.layer_stats import (
    LayerStat,
    MeanVar,
    bn_layer_stats,
    capture_stats,
    running_stats,
)


@dataclass(frozen=True)
class PreprocessConfig:
    """How pixels are presented to a network.

    Attributes:
        mean: What is taken from each channel of [0, 1] values.
        std: What each channel is divided by then.
        size: Side of the square image, in pixels.
        interpolation: `bilinear` or `bicubic`: how images of other sizes are brought to it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    interpolation: str = "bilinear"


class Teacher(nn.Module):
    """A frozen network in evaluation mode, for good.

    Args:
        name: The network's name.
        network: The trained network; it is frozen in place.
        own: The pixel space that it was trained in.
        canonical: The pixel space of the images it will be given.
    """

    def __init__(
        self, name: str, network: nn.Module, *, own: PreprocessConfig, canonical: PreprocessConfig
    ) -> None:
        super().__init__()
        self.name = name
        self.network = network.requires_grad_(False)
        self._own = own
        self._canonical = canonical
        self.bn_probes = bn_layer_stats(network)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: running statistics must never move."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of canonical images [N, 3, H, W]."""
        logits: Tensor = self.network(self.adapt(images))
        return logits

    def observe(
        self, images: Tensor, probes: Sequence[LayerStat] | None = None
    ) -> tuple[Tensor, list[MeanVar]]:
        """Return logits, and the batch statistics that probes see, in one pass.

        Args:
            images: Canonical images [N, 3, H, W].
            probes: Where to measure; at the input of every BN layer where None.

        Returns:
            Logits [N, classes], and statistics in the order of the probes, which carry gradients
            to the images.
        """
        wanted = self.bn_probes if probes is None else probes
        with capture_stats(wanted) as seen:
            logits = self(images)
        return logits, [seen[probe] for probe in wanted]

    def statistics(self, images: Tensor, probes: Sequence[LayerStat]) -> list[MeanVar]:
        """Return what probes see, as `observe`, in a pass that ends behind the last of them."""
        if not probes:
            return []
        with capture_stats(probes, to_the_end=False) as seen:
            self(images)
        return [seen[probe] for probe in probes]

    def running(self) -> list[MeanVar]:
        """Return the stored statistics of the real data, in the order of `bn_probes`."""
        return running_stats(self.bn_probes)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return penultimate features [N, d] and logits [N, classes], in one pass.

        The features are what the linear head is given.

        Raises:
            UsageError: The network has no linear head.
        """
        head = [m for m in self.network.modules() if isinstance(m, nn.Linear)][-1:]
        if not head:
            raise UsageError(f"network {self.name!r} has no linear head, so it gives no features")
        seen: list[Tensor] = []
        handle = head[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self(images)
        finally:
            handle.remove()
        return seen[0].flatten(1), logits

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features [N, d], as `look`."""
        return self.look(images)[0]

    def adapt(self, images: Tensor) -> Tensor:
        """Convert canonical images to the network's own mean, std and size; identity if equal."""
        own, canonical = self._own, self._canonical
        if own.size != canonical.size:
            images = functional.interpolate(
                images, size=(own.size, own.size), mode=own.interpolation, antialias=True
            )
        if (own.mean, own.std) == (canonical.mean, canonical.std):
            return images
        pixels = images * _channels(canonical.std, images) + _channels(canonical.mean, images)
        return (pixels - _channels(own.mean, images)) / _channels(own.std, images)


def check_bn(name: str, network: nn.Module) -> None:
    """Check that a network can be a BN teacher.

    Raises:
        UsageError: It has no BatchNorm2d layer, or one without running statistics.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers or any(layer.running_mean is None for layer in layers):
        raise UsageError(
            f"network {name!r} has no BN layers with running statistics, so it cannot be a BN "
            "teacher; use it in `holdout_networks` or `students`, or choose one with batch norm"
        )


def check_conv(name: str, network: nn.Module) -> None:
    """Check that a network has convolutions whose inputs can be aligned.

    Raises:
        UsageError: It has no Conv2d layer.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in network.modules()):
        raise UsageError(
            f"network {name!r} has no convolutions, so their statistics cannot be aligned; take it "
            "out of `teachers`, or use a method whose statistics are bn"
        )


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)
