"""Networks by name, from torchvision or timm, adapted to a class count and an image size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from prism_nb.core.errors import UsageError, suggest

WEIGHT_FILES = (".safetensors", ".pth")  # endings of files that weights are read from
_RESNET_STEM = ("conv1", "maxpool")
_STEMS: dict[type[nn.Module], tuple[str, str]] = {  # the first convolution, and what pools it
    models.ResNet: _RESNET_STEM,
    models.DenseNet: ("features.conv0", "features.pool0"),
    models.ShuffleNetV2: ("conv1.0", "maxpool"),
    models.MobileNetV2: ("features.0.0", ""),
    models.MobileNetV3: ("features.0.0", ""),
    models.EfficientNet: ("features.0.0", ""),
    models.MNASNet: ("layers.0", ""),
    models.RegNet: ("stem.0", ""),
}
_SMALL = 64  # pixels; up to here an ImageNet stem would throw most of the image away


def build_network(name: str, *, classes: int, image_size: int) -> nn.Module:
    """Build a network with fresh weights from torch's global generator.

    Args:
        name: A torchvision or timm architecture. Where both have it torchvision's is taken, as
            in the published PRISM; `timm/resnet18` and `torchvision/resnet18` say which.
        classes: Size of its head.
        image_size: Side of its square input, in pixels.

    Raises:
        UsageError: Unknown name.
    """
    source, architecture = resolve_architecture(name)
    if source == "torchvision":
        network = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
    else:
        options: dict[str, Any] = {"img_size": image_size} if _is_fixed_size(architecture) else {}
        network = timm.create_model(architecture, num_classes=classes, **options)
    if image_size <= _SMALL:
        _shrink_stem(network)
    return network


def source_of(name: str) -> str:
    """Return the library that a network comes from: `torchvision` or `timm`.

    Raises:
        UsageError: Neither has it.
    """
    return resolve_architecture(architecture_of(name))[0]


def architecture_of(name: str) -> str:
    """Return the architecture that a name means, without its weights.

    `resnet18@IMAGENET1K_V1` means resnet18, and `resnet50.a1_in1k`, whose tag is timm's, timm's
    resnet50.
    """
    architecture, at, _ = name.partition("@")
    model, dot, _ = architecture.partition(".")
    return f"timm/{model.removeprefix('timm/')}" if dot and not at else architecture


def resolve_architecture(name: str) -> tuple[str, str]:
    """Return the library that an architecture's name means, and its name there.

    Raises:
        UsageError: Neither has it.
    """
    source, slash, architecture = name.rpartition("/")
    known = {
        "torchvision": torchvision.models.list_models(module=torchvision.models),
        "timm": timm.list_models(),
    }
    if slash and source not in known:
        raise UsageError(f"network {name!r}: {source!r} is no source; use torchvision/ or timm/")
    for place in [source] if slash else list(known):
        if architecture in known[place]:
            return place, architecture
    everything = set(known["torchvision"]) | set(known["timm"])
    raise UsageError(f"unknown network {name!r}; {suggest(architecture, everything)}")


def _is_fixed_size(architecture: str) -> bool:
    config = timm.models.get_pretrained_cfg(architecture)
    return bool(config and config.fixed_input_size)


def _shrink_stem(network: nn.Module) -> None:
    """Let a stem keep all pixels: a convolution of stride 1, 3x3 if it was 7x7, and no max-pool.

    He et al. (2016, 4.2) have such a stem for CIFAR, and their followers in other families. Of
    timm's networks only those are changed whose stem is that of torchvision's ResNet.
    """
    parts = dict(network.named_modules())
    conv, pool = _STEMS.get(type(network), _RESNET_STEM)
    stem = parts.get(conv)
    if not isinstance(stem, nn.Conv2d) or pool not in parts:
        return
    if stem.kernel_size == (7, 7):
        stem = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
        network.set_submodule(conv, stem)
    elif type(network) not in _STEMS:
        return
    stem.stride = (1, 1)
    if pool:
        network.set_submodule(pool, nn.Identity())


def check_forward(name: str, network: nn.Module, *, classes: int, image_size: int) -> None:
    """Check by two passes that a network classifies images of a size; it is left as it was.

    Raises:
        UsageError: It cannot take such images, or gives something else than their logits.
    """
    was_training = network.training
    device = next(network.parameters()).device
    images = torch.zeros(2, 3, image_size, image_size, device=device)
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = [network.train(mode)(images) for mode in (False, True)]
    except Exception as error:
        raise UsageError(
            f"network {name!r} cannot take {image_size}-pixel images: {error}; choose another "
            "network or a larger image_size"
        ) from None
    load_weights(network.train(was_training), kept)  # training has moved running statistics
    for output in outputs:
        if not isinstance(output, torch.Tensor) or output.shape != (2, classes):
            raise UsageError(
                f"network {name!r} does not give one row of {classes} logits per image (it may "
                "have auxiliary heads); choose another network"
            )


META = torch.device("meta")


def build_on_meta(name: str, *, classes: int, image_size: int) -> nn.Module:
    """Build a network on the meta device; through the CPU where its code computes on the way.

    Args:
        name: See `build_network`.
        classes: Size of its head.
        image_size: Side of its square input, in pixels.

    Raises:
        UsageError: Unknown name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of weights' first values, which are none
        try:
            with META:
                return build_network(name, classes=classes, image_size=image_size)
        except (RuntimeError, NotImplementedError):
            return build_network(name, classes=classes, image_size=image_size).to(META)


@dataclass(frozen=True)
class NetworkInfo:
    """A network in numbers.

    Attributes:
        name: Its name.
        source: torchvision or timm.
        parameters: Trainable values.
        flops: Floating-point operations of one image's forward pass; a multiply-add is two.
        bn_layers: BatchNorm2d layers.
        bn_channels: Channels over all of them: values per statistic.
    """

    name: str
    source: str
    parameters: int
    flops: int
    bn_layers: int
    bn_channels: int


def network_info(name: str, network: nn.Module, *, image_size: int) -> NetworkInfo:
    """Count a network's parts, at one image of the given side."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return NetworkInfo(
        name=name,
        source=source_of(name),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=count_flops(network, image_size=image_size),
        bn_layers=len(layers),
        bn_channels=sum(layer.num_features for layer in layers),
    )


def count_flops(network: nn.Module, *, image_size: int) -> int:
    """Count the operations of one image's forward pass, matrix products and convolutions only."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(was_training)
    return int(counter.get_total_flops())


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors by their names in the network's state dict.

    A state dict also holds the version of each layer, which neither files of tensors nor plain
    dicts keep; torchvision's MNASNet loads nothing without it. It is that of the network.

    Raises:
        RuntimeError: Names or shapes are not the network's.
    """
    state = network.state_dict()
    state.clear()  # of its tensors; the versions stay
    state.update(tensors)
    network.load_state_dict(state)
