"""Comparing networks on real images: those whose weights are here, trained or taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.device import choose_device
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit
from prism_nb.core.units import is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.teacher import Teacher
from prism_nb.models.weights import resolve_weights

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


def compare_networks(run: Run, names: Sequence[str]) -> Comparison:
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
        agreement=_pairwise(prediction_agreement, logits),
    )


def weights_available(run: Run, name: str) -> bool:
    """Return whether a network's weights are in the run, or where published ones are looked for."""
    if run.marker(network_unit(run.settings, name)) is not None:
        return True
    return is_pretrained_name(name) and resolve_weights(name).file.is_file()


def _network(run: Run, name: str, dataset: ImageDataset) -> Teacher:
    if run.marker(network_unit(run.settings, name)) is not None:
        return load_teacher(run, name)
    if not weights_available(run, name):
        raise PrismError("not trained or fetched yet")
    taken = open_pretrained(name, dataset)
    device = choose_device(run.settings.device)
    return wrap_teacher(name, taken.network, dataset, taken.space, device)


def _some_images(dataset: ImageDataset) -> Tensor:
    """Return held-out images [n, 3, S, S], evenly spaced over all, which lie class by class."""
    count = len(dataset.labels("val"))
    order = np.argsort(dataset.labels("val"), kind="stable")
    places = order[np.linspace(0, count - 1, min(IMAGES, count)).astype(int)]
    return dataset.normalize(dataset.images("val", places.tolist()))


@torch.no_grad()
def _outputs(teacher: Teacher, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return penultimate features [n, d] and logits [n, classes] on the CPU."""
    parts = images.split(_BATCH)
    features, logits = zip(*map(teacher.look, parts), strict=True)
    return torch.cat(features).cpu(), torch.cat(logits).cpu()


def _pairwise(measure: Callable[[Tensor, Tensor], float], of: Sequence[Tensor]) -> np.ndarray:
    return np.array([[measure(a, b) for b in of] for a in of]).reshape(len(of), len(of))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two networks' features.

        CKA(X, Y) = ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F),  columns of X and Y centred

    It does not change under orthogonal maps and isotropic scaling of either, and needs no equal
    widths. (Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019,
    arXiv 1905.00414, section 3.) Computed by the images' Gram matrices, since features are wide:
    ||Y'X||_F^2 is the sum over all entries of XX' times YY'.

    Args:
        x: Features of the same images, one row each [n, d].
        y: Those of the other network [n, e].

    Returns:
        A number in [0, 1]; not a number where a network's features are all the same.
    """
    gram_x, gram_y = _gram(x), _gram(y)
    norms = torch.linalg.matrix_norm(gram_x) * torch.linalg.matrix_norm(gram_y)
    return float((gram_x * gram_y).sum() / norms) if norms > 0 else float("nan")


def prediction_agreement(x: Tensor, y: Tensor) -> float:
    """Return the share of images that two networks give the same class, in [0, 1].

    Args:
        x: Logits of the same images [n, classes].
        y: Those of the other network [n, classes].
    """
    return float((x.argmax(1) == y.argmax(1)).double().mean())


def _gram(features: Tensor) -> Tensor:
    wide = features.double()
    centred = wide - wide.mean(0)
    return centred @ centred.T
