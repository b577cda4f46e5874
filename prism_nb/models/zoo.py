"""Networks by name for a number of classes and an image size.

timm and torchvision take seconds to import, which many processes never need, so the functions that
build networks import them.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from prism_nb.core.errors import UsageError
from prism_nb.models.architectures import architecture_of, resolve_architecture
from prism_nb.models.convnet import KIT_NETWORKS

META = torch.device("meta")
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")  # endings

_PADDINGS = ("", "same", "valid")  # timm takes any other text for its default
BuildOptions = tuple[tuple[str, str | int | float | bool], ...]  # keyword arguments, hashable


def build_network(
    name: str, *, classes: int, image_size: int, options: BuildOptions = ()
) -> nn.Module:
    """Build a network whose initial weights are drawn from torch's global generator.

    Images of up to 64 pixels get a stem that does not downsample, unless the option `stem` names
    one: `stock`, the library's; `small`; or e.g. `7x7 stride 2 pool` (see `set_stem`).

    Args:
        name: A torchvision or timm architecture, or one of `KIT_NETWORKS`. Where both libraries
            have it torchvision's is taken, as in the published PRISM, unless the name is e.g.
            `timm/resnet18`.
        classes: Size of its head.
        image_size: Side of its square input, in pixels.
        options: Further arguments of `timm.create_model`, or of torchvision's builder, and `stem`.

    Raises:
        UsageError: Unknown name.
    """
    library, architecture = resolve_architecture(name)
    arguments: dict[str, Any] = {"num_classes": classes, **dict(options)}
    stem = arguments.pop("stem", "small" if image_size <= SMALL_IMAGE else "stock")
    if library == "torchvision":
        from torchvision import models

        network = models.get_model(architecture, weights=None, **arguments)
    elif library == "kit":
        network = KIT_NETWORKS[architecture](image_size=image_size, **arguments)
    else:
        import timm

        config = timm.models.get_pretrained_cfg(architecture)
        if config and config.fixed_input_size:
            arguments["img_size"] = image_size
        network = timm.create_model(architecture, **arguments)
    if stem == "small":
        _shrink_stem(network)
    elif stem != "stock":
        set_stem(network, stem)
    return network


def build_on_meta(
    name: str, *, classes: int, image_size: int, options: BuildOptions = ()
) -> nn.Module:
    """Build a network as `build_network`, without values, on torch's meta device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of initialising tensors without values
        try:
            with META:
                return build_network(name, classes=classes, image_size=image_size, options=options)
        except (RuntimeError, NotImplementedError):  # its code computes with values
            network = build_network(name, classes=classes, image_size=image_size, options=options)
            return network.to(META)


@lru_cache(maxsize=256)
def check_options(name: str, options: BuildOptions, *, image_size: int, where: str) -> None:
    """Check that an architecture can be built with further arguments.

    Builders raise a TypeError for an argument that they do not know (all 1,371 of timm 1.0.31 do),
    but take some unknown values for the default, so an argument that changes no layer is warned of.
    `where` says in messages what names them.
    """
    if not options:
        return
    library, architecture = resolve_architecture(name)
    arguments = ", ".join(f"{key}={value!r}" for key, value in options)
    try:
        if reserved := sorted(_reserved_arguments() & dict(options).keys()):
            raise ValueError(f"{', '.join(reserved)} cannot be set")
        if (padding := dict(options).get("pad_type", "")) not in _PADDINGS:
            raise ValueError(f"pad_type {padding!r} is none of {', '.join(map(repr, _PADDINGS))}")
        build = partial(build_on_meta, name, classes=10, image_size=image_size)
        layers, idle = str(build(options=options)), []
        for option in options:
            rest = tuple(other for other in options if other != option)
            if option[0] == "stem":
                rest = (*rest, ("stem", "stock"))
            # The stock stem is the default of large images.
            if option != ("stem", "stock") and str(build(options=rest)) == layers:
                idle.append("{}={!r}".format(*option))
    except Exception as error:  # builders fail in many ways
        raise UsageError(
            f"build in {where}: {library} does not make {architecture} with {arguments}: {error}; "
            "correct the arguments or leave them out"
        ) from None
    if idle:
        warnings.warn(
            f"build in {where}: {', '.join(idle)} changes no layer of {library}'s {architecture}: "
            "correct it, or leave it out",
            stacklevel=2,
        )


def _reserved_arguments() -> set[str]:
    """Return the arguments of the builders that load weights, or that the kit sets.

    Images are square, have three channels and the metadata's size, and the head has the dataset's
    classes.
    """
    import timm

    return {
        *inspect.signature(timm.create_model).parameters,
        *("num_classes", "in_chans", "img_size", "features_only", "device", "dtype"),
        *("weights", "weights_backbone", "progress"),
    }


@lru_cache(maxsize=256)
def head_tensors(name: str, *, image_size: int, options: BuildOptions = ()) -> tuple[str, ...]:
    """Return the names of the weights of a network's head: those that grow with its classes."""
    few, more = (
        build_on_meta(name, classes=n, image_size=image_size, options=options).state_dict()
        for n in (10, 11)
    )
    return tuple(key for key in few if few[key].shape != more[key].shape)


def load_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], *, optional: Iterable[str] = ()
) -> None:
    """Load tensors by their names in the network's state dict; optional ones that miss become 0.

    Files hold no layer versions, which state dicts have and torchvision's MNASNet needs, so the
    network's own are used.

    Raises:
        RuntimeError: Names or shapes are not the network's.
    """
    state = network.state_dict()
    missing = {key: torch.zeros_like(state[key]) for key in optional if key not in tensors}
    state.clear()  # removes the tensors and keeps the versions
    state.update({**missing, **tensors})
    network.load_state_dict(state)


def check_forward(name: str, network: nn.Module, *, classes: int, image_size: int) -> None:
    """Check that a network classifies images of a size, in training and in evaluation mode."""
    trial = copy.deepcopy(network)  # a training pass moves running statistics
    images = torch.zeros(2, 3, image_size, image_size, device=next(network.parameters()).device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = [trial.train(mode)(images) for mode in (False, True)]
    except Exception as error:
        raise UsageError(
            f"network {name!r} cannot take {image_size}-pixel images: {error}; choose another "
            "network or a larger image_size"
        ) from None
    for output in outputs:
        if not isinstance(output, Tensor) or output.shape != (2, classes):
            raise UsageError(
                f"network {name!r} does not give one row of {classes} logits per image (it may "
                "have auxiliary heads); choose another network"
            )


@dataclass(frozen=True)
class NetworkInfo:
    """A network in numbers."""

    name: str  # the network's name
    source: str  # `torchvision`, `timm` or `kit`
    parameters: int  # trainable values
    flops: int  # floating-point operations of one image's forward pass; a multiply-add is two
    bn_layers: int  # number of BatchNorm2d layers
    bn_channels: int  # channels over all of them, which is the number of values per statistic


def network_info(name: str, network: nn.Module, *, image_size: int) -> NetworkInfo:
    """Return a network's numbers for square images of a side in pixels."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return NetworkInfo(
        name=name,
        source=resolve_architecture(architecture_of(name))[0],
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=count_flops(network, image_size=image_size),
        bn_layers=len(layers),
        bn_channels=sum(layer.num_features for layer in layers),
    )


def count_flops(network: nn.Module, *, image_size: int) -> int:
    """Return the operations of one image's forward pass: matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(was_training)
    return int(counter.get_total_flops())


SMALL_IMAGE = 64  # pixels; up to here an ImageNet stem would throw most of the image away
_FAMILIES = {  # classes of torchvision
    *("ResNet", "DenseNet", "ShuffleNetV2", "RegNet", "MNASNet"),
    *("MobileNetV2", "MobileNetV3", "EfficientNet"),
}
_POOLS = ("maxpool", "features.pool0")  # of ResNet and ShuffleNet, and of DenseNet
_STEM = re.compile(r"([37])x\1 stride ([12])( pool)?")


def stem_layers(network: nn.Module) -> tuple[str, str]:
    """Return the names of the first convolution, and of the pooling layer behind it or ""."""
    layers = dict(network.named_modules())
    conv = next((name for name, m in layers.items() if isinstance(m, nn.Conv2d)), "")
    return conv, next((name for name in _POOLS if name in layers), "")


def _shrink_stem(network: nn.Module) -> None:
    """Make the first convolution one of stride 1, 3x3 if it was 7x7, and drop the max-pool.

    He et al. (2016, 4.2) use such a stem for CIFAR, and later work in other families. Of timm's
    networks only those change whose stem is that of torchvision's ResNet.
    """
    kind = type(network)
    is_torchvisions = kind.__module__.startswith("torchvision.") and kind.__name__ in _FAMILIES
    is_resnets = stem_layers(network) == ("conv1", "maxpool")
    if is_torchvisions or (is_resnets and stem_of(network).startswith("7x7")):
        set_stem(network, "3x3 stride 1")


def stem_of(network: nn.Module) -> str:
    """Return a network's stem as `set_stem` takes it, or "" if it is of another kind."""
    conv, pool = stem_layers(network)
    layer = network.get_submodule(conv)
    if not isinstance(layer, nn.Conv2d):
        return ""
    (kernel, _), (stride, _) = layer.kernel_size, layer.stride
    has_pool = pool and not isinstance(network.get_submodule(pool), nn.Identity)
    text = f"{kernel}x{kernel} stride {stride}{' pool' if has_pool else ''}"
    return text if _STEM.fullmatch(text) else ""


def other_stems(network: nn.Module) -> list[str]:
    """Return the stems that fit a network's weights and compute something else."""
    own, pools = stem_of(network), ("", " pool") if stem_layers(network)[1] else ("",)
    stems = [f"{own[:3]} stride {stride}{pool}" for stride in (1, 2) for pool in pools]
    return [stem for stem in stems if own and stem != own]


def set_stem(network: nn.Module, stem: str) -> None:
    """Change a network's first convolution, and the max-pool behind it where it has one.

    The stem is `3x3 stride 1`, `7x7 stride 2 pool` or the like; a convolution of another size is
    drawn anew.

    Raises:
        ValueError: No such stem, or the network has none of this kind.
    """
    match, known = _STEM.fullmatch(stem), stem_of(network)
    conv, pool = stem_layers(network)
    layer = network.get_submodule(conv)
    if not match or not isinstance(layer, nn.Conv2d) or not known or (match.group(3) and not pool):
        raise ValueError(
            f"stem {stem!r} is none of stock, small, '3x3 stride 1', '3x3 stride 2 pool' and the "
            f"like for a network with {known or 'another kind of first layer'!r}"
        )
    kernel, stride = (int(value) for value in match.group(1, 2))
    if layer.kernel_size != (kernel, kernel):
        layer = nn.Conv2d(
            layer.in_channels, layer.out_channels, kernel, padding=kernel // 2, bias=False
        )
        network.set_submodule(conv, layer)
    layer.stride = (stride, stride)
    if pool:
        pooled = nn.MaxPool2d(3, 2, padding=1) if match.group(3) else nn.Identity()
        network.set_submodule(pool, pooled)
