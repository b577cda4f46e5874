"""Weights that were kept as plain tensors, put into a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


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
