"""A frozen network with its own preprocessing, which also returns layer statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import Channels, ImageDataset
from prism_nb.models.layer_stats import LayerStat, MeanVar, bn_layer_stats, capture_stats


@dataclass(frozen=True)
class PreprocessConfig:
    """Normalisation and size of a network's input."""

    mean: Channels  # subtracted from each channel of [0, 1] values
    std: Channels  # divisor of each channel after that
    size: int  # side of the square image, in pixels
    interpolation: str = "bilinear"  # resampling of images of other sizes, `bilinear` or `bicubic`

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a config from plain values, as a marker or a weights file holds them."""
        (r, g, b), (sr, sg, sb) = values["mean"], values["std"]
        return cls((r, g, b), (sr, sg, sb), values["size"], values["interpolation"])


def dataset_preprocess(dataset: ImageDataset) -> PreprocessConfig:
    """Return the pixel space in which a dataset's images are optimised and stored."""
    return PreprocessConfig(dataset.mean, dataset.std, dataset.image_size)


class Teacher(nn.Module):
    """A network that stays frozen and in evaluation mode.

    Args:
        name: The network's name.
        network: The trained network; it is frozen in place.
        native: The preprocessing that the network was trained with.
        dataset: The preprocessing of all images that it is given [N, 3, H, W].
        head_rows: Output of the head for each of the dataset's classes; None: its outputs in order.
    """

    head_rows: Tensor | None

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        native: PreprocessConfig,
        dataset: PreprocessConfig,
        head_rows: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        rows = None if head_rows is None else torch.tensor(head_rows)
        self.register_buffer("head_rows", rows, persistent=False)
        self.network = network.requires_grad_(False)
        self.bn_layer_stats = bn_layer_stats(network)
        self._native = native
        self._dataset = dataset
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: running statistics must never move."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the dataset's classes [N, classes]."""
        return self.class_logits(self.head_logits(images))

    def head_logits(self, images: Tensor) -> Tensor:
        """Return the logits of the whole head [N, head]."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits

    def class_logits(self, head_logits: Tensor) -> Tensor:
        """Return the logits of the dataset's classes from those of the whole head."""
        return head_logits if self.head_rows is None else head_logits[:, self.head_rows]

    def head_labels(self, labels: Tensor) -> Tensor:
        """Return the output of the head for each class index [N]."""
        return labels if self.head_rows is None else self.head_rows[labels]

    def preprocess(self, images: Tensor) -> Tensor:
        """Convert the dataset's images to the network's size, mean and std; identity if equal."""
        native, dataset = self._native, self._dataset
        if native.size != dataset.size:
            images = functional.interpolate(
                images, size=(native.size, native.size), mode=native.interpolation, antialias=True
            )
        if (native.mean, native.std) == (dataset.mean, dataset.std):
            return images
        pixels = images * _channels(dataset.std, images) + _channels(dataset.mean, images)
        return (pixels - _channels(native.mean, images)) / _channels(native.std, images)

    def forward_with_stats(
        self, images: Tensor, stats: Sequence[LayerStat]
    ) -> tuple[Tensor, list[MeanVar]]:
        """Return head logits [N, head] and statistics of the batch, from one pass."""
        with capture_stats(stats) as measured:
            logits = self.head_logits(images)
        return logits, [measured[stat] for stat in stats]

    def stats_only(self, images: Tensor, stats: Sequence[LayerStat]) -> list[MeanVar]:
        """Return layer statistics as `forward_with_stats`, without the layers behind them."""
        if not stats:
            return []
        with capture_stats(stats, stop_early=True) as measured:
            self.head_logits(images)
        return [measured[stat] for stat in stats]

    def running_stats(self) -> list[MeanVar]:
        """Return the running statistics of the BN layers, in the order of `bn_layer_stats`."""
        return [
            MeanVar(stat.layer.get_buffer("running_mean"), stat.layer.get_buffer("running_var"))
            for stat in self.bn_layer_stats
        ]

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return penultimate features [N, d], the head's input, and head logits [N, head].

        Raises:
            UsageError: The network has no linear head.
        """
        captured: list[Tensor] = []
        head = linear_head(self.name, self.network)
        hook = head.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
        try:
            logits = self.head_logits(images)
        finally:
            hook.remove()
        return captured[0].flatten(1), logits


def linear_head(name: str, network: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network."""
    head = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1:]
    if not head:
        raise UsageError(f"network {name!r} has no linear head, so it gives no features")
    return head[0]


def check_bn(name: str, network: nn.Module) -> None:
    """Check that a network can be a BN teacher."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers or any(layer.running_mean is None for layer in layers):
        raise UsageError(
            f"network {name!r} has no BN layers with running statistics, so it cannot be a BN "
            "teacher; name it in `logits_only` too, use it in `holdout_networks` or `students`, or "
            "choose one with batch norm"
        )


def check_conv(name: str, network: nn.Module) -> None:
    """Check that the inputs of a network's convolutions can be matched."""
    if not any(isinstance(layer, nn.Conv2d) for layer in network.modules()):
        raise UsageError(
            f"network {name!r} has no convolutions, so their statistics cannot be matched; take it "
            "out of `teachers`, or use a method whose statistics are bn"
        )


def _channels(values: Channels, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)
