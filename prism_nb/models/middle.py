"""Features of the middle of a network: which block gives them, and their capture."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from torch import Tensor, nn

from prism_nb.core.errors import UsageError
from prism_nb.models.layer_stats import StopForward

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they are not called


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

    Raises:
        UsageError: There is no such block, or no tensor with one row per image comes from it.
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
