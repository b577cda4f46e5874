"""Agreement of teachers: whether several networks see the same in an image."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor


def all_agree(logits: Tensor) -> Tensor:
    """Return for each image whether all networks name the same class.

    Args:
        logits: Of T networks, T at least 2 [T, n, classes].

    Returns:
        1 or 0, float64 [n].
    """
    named = logits.argmax(-1)
    return (named == named[0]).all(0).double()


def pairs_agree(logits: Tensor) -> Tensor:
    """Return for each image the share of pairs of networks that name the same class.

    Args:
        logits: Of T networks, T at least 2 [T, n, classes].

    Returns:
        Shares in [0, 1], float64 [n].
    """
    named = logits.argmax(-1)
    return torch.stack([(named[a] == named[b]).double() for a, b in _pairs(logits)]).mean(0)


def divergence(logits: Tensor) -> Tensor:
    """Return for each image the Jensen-Shannon divergence of two networks, mean over the pairs.

        H((p + q) / 2) - (H(p) + H(q)) / 2,  p and q softmax, H entropy in nats

    (Lin, IEEE Transactions on Information Theory 37, 1991.)

    Args:
        logits: Of T networks, T at least 2 [T, n, classes].

    Returns:
        Values in [0, log 2] nats, float64 [n].
    """
    p = logits.double().softmax(-1)
    apart = [_entropy((p[a] + p[b]) / 2) - _entropy(p[[a, b]]).mean(0) for a, b in _pairs(logits)]
    # Rounding may leave equal networks a hair below 0.
    return torch.stack(apart).mean(0).clamp(min=0)


def _pairs(logits: Tensor) -> list[tuple[int, int]]:
    return list(combinations(range(len(logits)), 2))


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)
