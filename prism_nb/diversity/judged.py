"""Images one by one, as the pool's teachers see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.data import open_dataset
from prism_nb.diversity.agreement import divergence, pairs_agree
from prism_nb.diversity.geometry import UNDEFINED
from prism_nb.diversity.memory import MEMORY
from prism_nb.run import Run
from prism_nb.teachers.pool import load_teacher


@dataclass(frozen=True)
class Judged:
    """What the pool makes of n images.

    Attributes:
        loss: The primary's cross-entropy with the image's class, in nats, float64 [n].
        agree: Share of pairs of teachers that name the same class, in [0, 1], float64 [n]; NaN
            where there is one teacher.
        apart: Jensen-Shannon divergence of two teachers, mean over pairs, in [0, log 2] nats,
            float64 [n]; NaN likewise.
    """

    loss: Tensor
    agree: Tensor
    apart: Tensor


def judge(run: Run, pixels: Tensor, classes: Tensor) -> Judged:
    """Have the teachers of a run look at images.

    Args:
        run: The run.
        pixels: uint8 [n, 3, S, S].
        classes: The images' classes, int64 [n].

    Raises:
        PrismError: A teacher is not trained.
    """
    dataset, names = open_dataset(run.settings), run.settings.teachers
    seen = [MEMORY.seen(load_teacher(run, n), pixels, dataset, kind="logits") for n in names]
    primary = seen[names.index(run.settings.primary)].double()
    loss = functional.cross_entropy(primary, classes, reduction="none")
    if len(seen) < 2:
        nothing = torch.full_like(loss, UNDEFINED)
        return Judged(loss, nothing, nothing)
    logits = torch.stack(seen)
    return Judged(loss, pairs_agree(logits), divergence(logits))
