"""Families of architectures: who shares whose architectural prior."""

from __future__ import annotations

import re

import timm
import torchvision

from prism_nb.teachers.networks import architecture_of, library_name

# timm keeps these beside other families, in files named after those.
_BY_NAME = ("mobilenet", "mnasnet")


def family_of(name: str) -> str:
    """Return the family of a network: the library's file that builds it, without a version.

    So `resnet18`, `wide_resnet50_2` and timm's `resnetv2_50` are of one family, `resnet`.

    Args:
        name: A network of either library, with or without weights.

    Raises:
        UsageError: Neither library has it.
    """
    library, model = library_name(architecture_of(name))
    for family in _BY_NAME:
        if model.startswith(family):
            return family
    builders = torchvision.models.get_model_builder, timm.models.model_entrypoint
    module = builders[library == "timm"](model).__module__.rpartition(".")[2]
    return re.sub(r"_?v\d+$", "", module)
