"""Networks as shapes without values: nothing is computed, and no memory is taken."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from prism_nb.teachers.networks import build_network

META = torch.device("meta")


def shapes_of(name: str, *, classes: int, image_size: int) -> nn.Module:
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
