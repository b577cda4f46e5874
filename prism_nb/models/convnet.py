"""ConvNet-3, the student of small benchmarks, and its batch-norm twin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

_WIDTH = 128
_DEPTH = 3


class ConvNet3(nn.Module):
    """Three blocks of 3x3 convolution, normalisation, ReLU and 2x2 average pooling; then linear.

    As in Dataset Condensation (Zhao et al., ICLR 2021), after Gidaris and Komodakis (CVPR 2018),
    with 128 channels. Images of 28 pixels are padded to 32, as there. `norm` gives the
    normalisation of a number of channels.
    """

    def __init__(self, num_classes: int, image_size: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        padding = 3 if image_size == 28 else 1
        side = (image_size + 2 * (padding - 1)) // 2**_DEPTH
        layers = list[nn.Module]()
        for block in range(_DEPTH):
            conv = nn.Conv2d(_WIDTH if block else 3, _WIDTH, 3, padding=1 if block else padding)
            layers += [conv, norm(_WIDTH), nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(_WIDTH * side**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, num_classes] of images [N, 3, image_size, image_size]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


KIT_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "convnet3": partial(ConvNet3, norm=lambda width: nn.GroupNorm(width, width)),  # per instance
    "convnet3_bn": partial(ConvNet3, norm=nn.BatchNorm2d),
}
