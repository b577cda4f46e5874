"""Names of the architectures in torchvision, timm and the kit."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module, resources
from importlib.metadata import version
from typing import Any

from prism_nb.core.errors import UsageError, suggest

LIBRARIES = ("torchvision", "timm", "kit")  # the first that has a name is taken
_KIT = ("convnet3", "convnet3_bn")


def architecture_of(name: str) -> str:
    """Return the architecture in a network's name, without its weights.

    `resnet18@IMAGENET1K_V1` is resnet18, and `resnet50.a1_in1k`, with a tag of timm's, is
    `timm/resnet50`.
    """
    architecture, at, _ = name.partition("@")
    model, dot, _ = architecture.partition(".")
    return f"timm/{model.removeprefix('timm/')}" if dot and not at else architecture


def resolve_architecture(name: str) -> tuple[str, str]:
    """Return the library that has an architecture, and its name there."""
    prefix, slash, architecture = name.rpartition("/")
    if slash and prefix not in LIBRARIES:
        raise UsageError(
            f"network {name!r}: {prefix!r} is no library; use torchvision/, timm/ or kit/"
        )
    for library in [prefix] if slash else LIBRARIES:
        if architecture in architectures(library):
            return library, architecture
    everything = {known for library in LIBRARIES for known in architectures(library)}
    raise UsageError(f"unknown network {name!r}; {suggest(architecture, everything)}")


def architectures(library: str) -> Collection[str]:
    """Return the names of a library's architectures.

    The libraries take seconds to import. Where that has not been done yet, `architectures.json`
    answers, which has the names of one version of each.
    """
    if library == "kit":
        return _KIT
    if library not in sys.modules:
        listed = _listed()[library]
        if listed["version"] == version(library).partition("+")[0]:
            return listed["names"]
    return list_architectures(library)


@cache
def _listed() -> Any:
    text = resources.files("prism_nb.models").joinpath("architectures.json").read_text("utf-8")
    return json.loads(text)


def list_architectures(library: str) -> list[str]:
    """Return the names of a library's architectures, as the library lists them."""
    if library == "timm":
        return [*import_module("timm").list_models()]
    models = import_module("torchvision.models")
    return [*models.list_models(module=models)]
