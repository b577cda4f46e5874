"""A teacher whose penultimate features are the normalized pixels of 8-pixel digits."""

from __future__ import annotations

import torch
from torch import nn

from prism_nb.data.small import Digits
from prism_nb.models.teacher import Teacher, dataset_preprocess

DIGITS = Digits(8)


def linear_teacher(name: str) -> Teacher:
    """Return a teacher of one linear layer, whose weights the name decides."""
    torch.manual_seed(sum(name.encode()))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    space = dataset_preprocess(DIGITS)
    return Teacher(name, network, native=space, dataset=space)
