"""Making the catalogue's data anew, for the versions of the libraries that are installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from prism_nb.models.catalog import Entry, family_of
from prism_nb.models.zoo import META, build_on_meta, network_info, resolve_architecture

_CLASSES = 1000
_USUAL_SIZE = 224  # pixels


def architectures() -> list[str]:
    """Return every network of both libraries by the name that `build_network` takes."""
    ours = torchvision.models.list_models(module=torchvision.models)
    theirs = [f"timm/{name}" if name in ours else name for name in timm.list_models()]
    return sorted(ours) + sorted(theirs)


def rebuild(say: Callable[[str], None]) -> str:
    """Return the content of the catalogue's file.

    Args:
        say: Told of every network that cannot be a teacher for another reason than batch norm.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(Entry.__dataclass_fields__), lineterminator="\n")
    table.writeheader()
    table.writerows(entry.row() for entry in _entries(say))
    return text.getvalue()


def _entries(say: Callable[[str], None]) -> Iterator[Entry]:
    for name in architectures():
        try:
            entry = inspect_architecture(name)
        except Exception as error:  # of hundreds of networks, in their authors' words
            say(f"left out {name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            continue
        if entry is not None:
            yield entry


def inspect_architecture(name: str) -> Entry | None:
    """Count an architecture's parts, without weights; None where it has no batch norm.

    Raises:
        ValueError: It does not give one row of logits per image.
        Exception: Whatever stops it from being built or run on shapes alone.
    """
    library, model = resolve_architecture(name)
    config = _timm_config(model) if library == "timm" else _torchvision_config(model)
    network = build_on_meta(name, classes=_CLASSES, image_size=config["size"])
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
        return None
    with mock.patch.object(functional, "batch_norm", _as_it_came):
        _require_logits(network, config["size"])
        facts = network_info(name, network, image_size=config["size"])
    return Entry(
        name=name,
        library=library,
        family=family_of(name),
        bn_layers=facts.bn_layers,
        bn_channels=facts.bn_channels,
        parameters=facts.parameters,
        flops=facts.flops,
        input_size=config["size"],
        weights=config["weights"],
        licence=config["licence"],
    )


def _require_logits(network: nn.Module, size: int) -> None:
    """Check what a network gives in training, which is when auxiliary heads answer as well."""
    with torch.no_grad():
        logits = network.train()(torch.zeros(2, 3, size, size, device=META))
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, _CLASSES):
        raise ValueError("it does not give one row of logits per image")


def _as_it_came(images: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Stand in for batch norm: it changes no shape and is not counted, but takes longest here."""
    return images


def _torchvision_config(model: str) -> dict[str, Any]:
    weights = list(torchvision.models.get_model_weights(model))
    first = weights[0] if weights else None
    return {
        "size": first.transforms().crop_size[0] if first else _USUAL_SIZE,
        "weights": {w.name: _published(w) for w in weights},
        "licence": (first.meta.get("license") if first else None) or "",
    }


def _published(weights: Any) -> float | None:
    return weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")


def _timm_config(model: str) -> dict[str, Any]:
    config = timm.models.get_pretrained_cfg(model)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    return {
        "size": config.input_size[-1] if config else _USUAL_SIZE,
        "weights": dict.fromkeys(filter(None, tags)),
        "licence": (config.license if config else None) or "",
    }
