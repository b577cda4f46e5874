"""Comparing networks on real images: those whose weights are here, trained or taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prism_nb.data import ImageDataset, open_dataset
from prism_nb.device import choose_device
from prism_nb.errors import PrismError
from prism_nb.plans.squeeze import network_unit
from prism_nb.run import Run
from prism_nb.teachers.pool import as_teacher, load_teacher
from prism_nb.teachers.pretrained import open_pretrained
from prism_nb.teachers.similarity import agreement, linear_cka
from prism_nb.teachers.sources import find_source
from prism_nb.teachers.teacher import Teacher
from prism_nb.units import has_weights

IMAGES = 200
_BATCH = 50


@dataclass(frozen=True)
class Comparison:
    """How alike some networks are, pair by pair.

    Attributes:
        names: The networks that were compared.
        missing: Those that were not, each with the reason in words.
        images: Real held-out images that they were shown.
        cka: Linear CKA of penultimate features [T, T].
        agreement: Share of images that both give the same class [T, T].
    """

    names: tuple[str, ...]
    missing: dict[str, str]
    images: int
    cka: np.ndarray
    agreement: np.ndarray


def compare(run: Run, names: Sequence[str]) -> Comparison:
    """Show real held-out images to networks and compare what they make of them.

    Args:
        run: The run that has trained the networks, or whose dataset their weights know.
        names: Networks.
    """
    dataset = open_dataset(run.settings)
    images = _some_images(dataset).to(choose_device(run.settings.device))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            seen[name] = _outputs(_network(run, name, dataset), images)
        except PrismError as error:
            missing[name] = str(error)
    features, logits = [[pair[part] for pair in seen.values()] for part in (0, 1)]
    return Comparison(
        names=tuple(seen),
        missing=missing,
        images=len(images),
        cka=_pairwise(linear_cka, features),
        agreement=_pairwise(agreement, logits),
    )


def is_here(run: Run, name: str) -> bool:
    """Return whether a network's weights are in the run, or where published ones are looked for."""
    if run.marker(network_unit(run.settings, name)) is not None:
        return True
    return has_weights(name) and find_source(name).file.is_file()


def _network(run: Run, name: str, dataset: ImageDataset) -> Teacher:
    if run.marker(network_unit(run.settings, name)) is not None:
        return load_teacher(run, name)
    if not is_here(run, name):
        raise PrismError("not trained or fetched yet")
    taken = open_pretrained(name, dataset)
    device = choose_device(run.settings.device)
    return as_teacher(name, taken.network, dataset, taken.space, device)


def _some_images(dataset: ImageDataset) -> Tensor:
    """Return held-out images [n, 3, S, S], evenly spaced over all, which lie class by class."""
    count = len(dataset.labels("val"))
    order = np.argsort(dataset.labels("val"), kind="stable")
    places = order[np.linspace(0, count - 1, min(IMAGES, count)).astype(int)]
    return dataset.canonical(dataset.images("val", places.tolist()))


@torch.no_grad()
def _outputs(teacher: Teacher, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return penultimate features [n, d] and logits [n, classes] on the CPU."""
    parts = images.split(_BATCH)
    features, logits = zip(*map(teacher.look, parts), strict=True)
    return torch.cat(features).cpu(), torch.cat(logits).cpu()


def _pairwise(measure: Callable[[Tensor, Tensor], float], of: Sequence[Tensor]) -> np.ndarray:
    return np.array([[measure(a, b) for b in of] for a in of]).reshape(len(of), len(of))
