"""The loss of images whose tiles are to have the features of real images, and its gradient.

    L(x) = sum over the tiles t of x of mean |f(v(up(t))) - f(v(r_t))|

Here r_t is the real image behind a tile t, `up` enlarges a tile to the full size, v is a random
view that both share, f gives features of the middle of a network, and the mean is over these (CIM;
Shang et al., ECCV 2026, arXiv 2607.00916, and its code). The loss of a batch is the sum over its
images, which makes each independent of the others; the mean over images is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from prism_nb.core.device import half_precision
from prism_nb.core.errors import UsageError
from prism_nb.data.augment import AugParams, augment
from prism_nb.models.layer_stats import StopForward
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.micro_batch import Backward, StepInputs
from prism_nb.synthesis.phases import resize

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they are not called


class FeatureBackward(Backward):
    """Backward pass of the distance of features.

    Args:
        teachers: Every network of the unit, by name.
        real: The real images behind the tiles, canonical [N, grid * grid, 3, S, S], those of an
            image in reading order.
        precision: `fp32`, `tf32` or `bf16` of the networks' layers.
        micro_batch_size: Tiles per forward pass, at least those of one image; 0: all.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        real: Tensor,
        precision: str = "fp32",
        micro_batch_size: int = 0,
    ) -> None:
        super().__init__(micro_batch_size)
        self._teachers, self._real, self._precision = teachers, real, precision

    def __call__(self, step: StepInputs) -> dict[str, Tensor]:
        """Compute a step's loss, named after its network, and set the gradients of the images."""
        (name,), tiles = step.logit_teachers, self._real.shape[1]
        work = lambda: {f"features/{name}": self._mean_loss(name, step)}  # noqa: E731
        return self._within_memory(step, len(step.labels) * tiles, work)

    def gradients(self, step: StepInputs) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield none, since the loss is one term, whose share of the gradient is 1."""
        return iter(())

    def _mean_loss(self, name: str, step: StepInputs) -> Tensor:
        images = torch.cat([group.detach() for group in step.groups])
        gradient, total = torch.zeros_like(images), images.new_zeros(())
        count, tiles = len(images), self._real.shape[1]
        views = step.aug_params if len(step.aug_params) == count else step.aug_params * count
        size = max(1, (self.micro_batch_size or tiles * count) // tiles)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            leaf = images[part].requires_grad_()
            teacher, real = self._teachers[name], self._real[part]
            loss = feature_loss(teacher, leaf, real, views[part], self._precision)
            (gradient[part],) = torch.autograd.grad(loss, leaf)
            total += loss.detach()
        for group, own in zip(step.groups, gradient.split([*map(len, step.groups)]), strict=True):
            group.grad = own
        return total / count


def feature_loss(
    teacher: Teacher, images: Tensor, real: Tensor, views: Sequence[AugParams], precision: str
) -> Tensor:
    """Return the loss of images [n, 3, S, S], a scalar, with one view for each.

    `real` are the real images behind their tiles [n, grid * grid, 3, S, S], `precision` that of
    the teacher's layers.
    """
    count, size = real.shape[1], real.shape[-1]
    shared = [view for view in views for _ in range(count)]

    def features(x: Tensor) -> Tensor:
        seen = augment(x, shared).contiguous(memory_format=torch.channels_last)
        with half_precision(precision, seen.device):
            found = middle_features(teacher.network, teacher.head_logits, seen)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    with torch.no_grad():
        expected = features(real.flatten(0, 1))
    tiles = resize(cut_tiles(images, math.isqrt(count)), size)
    return (features(tiles) - expected).abs().flatten(1).mean(1).sum()


def cut_tiles(images: Tensor, grid: int) -> Tensor:
    """Cut images [n, 3, S, S] into tiles [n * grid * grid, 3, s, s], in reading order."""
    side = images.shape[-1] // grid
    tiles = images.unflatten(-1, (grid, side)).unflatten(-3, (grid, side))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def middle_block(network: nn.Module) -> nn.Module | None:
    """Return the outermost block that ends in the second quarter of a network's layers.

    Layers are its convolutions and linear layers, in the network's order; a block is a module that
    holds several; of several blocks, it is the last. Of ResNet-18 to 50 it is `layer2`, whose
    output enters `layer3` (CIM); of a ViT, the sixth of twelve blocks. A chain of layers without
    blocks gives a layer, and a single layer None.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    ranks = {layer: rank for rank, layer in enumerate(layers, 1)}
    ends: dict[nn.Module, tuple[bool, int, int]] = {}  # is it a block; its depth; its last layer
    for name, module in network.named_modules():
        own = [ranks[m] for m in module.modules() if m in ranks]
        within = own and len(layers) / 4 < max(own) <= len(layers) / 2
        if within and type(module) not in _CONTAINERS:
            ends[module] = (len(own) > 1, -name.count("."), max(own))
    return max(ends, key=ends.__getitem__, default=None)


def middle_features(network: nn.Module, forward: Callable[[Tensor], object], x: Tensor) -> Tensor:
    """Return the output of a network's middle block [N, ...], without the layers behind it.

    `forward` is the network's pass, of x [N, 3, H, W]; it may do more, such as resizing.
    """
    captured: list[object] = []

    def capture(_: nn.Module, __: object, output: object) -> None:
        captured.append(output)
        raise StopForward

    block = middle_block(network) or network
    hook = block.register_forward_hook(capture)
    try:
        with suppress(StopForward):
            forward(x)
    finally:
        hook.remove()
    features = captured[0] if captured and block is not network else None
    if not isinstance(features, Tensor) or len(features) != len(x):
        raise UsageError("its middle gives no features to match; choose another network")
    return features
