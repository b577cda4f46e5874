"""Similarity of networks on real images: CKA of their features and agreement of their classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan

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
from prism_nb.models.bn_distance import spaced_images
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.teacher import Teacher
from prism_nb.models.weights import resolve_weights

IMAGES = 200
_BATCH = 50


@dataclass(frozen=True)
class Comparison:
    """Pairwise similarity of networks."""

    names: tuple[str, ...]  # the networks that were compared
    missing: dict[str, str]  # the reason for each network that was not
    images: int  # number of held-out real images
    cka: np.ndarray  # linear CKA of penultimate features [T, T]
    agreement: np.ndarray  # share of images that both networks put in the same class [T, T]

    @property
    def similarities(self) -> dict[frozenset[str], float]:
        """The CKA of each pair of networks, where it is defined."""
        pairs = combinations(enumerate(self.names), 2)
        found = {frozenset((a, b)): float(self.cka[i, j]) for (i, a), (j, b) in pairs}
        return {pair: value for pair, value in found.items() if not isnan(value)}


def compare_networks(run: Run, names: Sequence[str]) -> Comparison:
    """Compare networks on held-out images, as far as a run has their weights."""
    dataset = open_dataset(run.settings)
    images = spaced_images(dataset, IMAGES).to(choose_device(run.settings.device))
    outputs: dict[str, tuple[Tensor, Tensor]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            outputs[name] = _outputs(_teacher(run, name, dataset), images)
        except PrismError as error:
            missing[name] = str(error)
    return Comparison(
        names=tuple(outputs),
        missing=missing,
        images=len(images),
        cka=_pairwise(linear_cka, [features for features, _ in outputs.values()]),
        agreement=_pairwise(prediction_agreement, [logits for _, logits in outputs.values()]),
    )


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two networks' features.

        CKA(X, Y) = ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F),  columns of X and Y centred

    It is invariant to orthogonal maps and isotropic scaling of either, and the widths may differ.
    (Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, arXiv
    1905.00414, section 3.) Computed from the images' Gram matrices, since features are wide:
    ||Y'X||_F^2 is the sum over all entries of XX' times YY'. Features are those of two networks for
    the same images, [images, d] and [images, e].

    Returns:
        A number in [0, 1]; NaN where a network's features are the same for all images.
    """
    centred = [each.double() - each.double().mean(0) for each in (x, y)]
    gram_x, gram_y = (each @ each.T for each in centred)
    norms = torch.linalg.matrix_norm(gram_x) * torch.linalg.matrix_norm(gram_y)
    return float((gram_x * gram_y).sum() / norms) if norms > 0 else float("nan")


def prediction_agreement(x: Tensor, y: Tensor) -> float:
    """Return the share of images with equal top-1 classes, by two networks' logits [n, classes]."""
    return float((x.argmax(1) == y.argmax(1)).double().mean())


def _teacher(run: Run, name: str, dataset: ImageDataset) -> Teacher:
    if run.units.marker(network_unit(run.settings, name)) is not None:
        return load_teacher(run, name)
    if not is_pretrained_name(name) or not resolve_weights(name).file.is_file():
        raise PrismError("not trained or fetched yet")
    found = open_pretrained(name, dataset, resample=run.settings.resample)
    device = choose_device(run.settings.device)
    return wrap_teacher(name, found.network, dataset, found.preprocess, device, found.head_rows)


@torch.no_grad()
def _outputs(teacher: Teacher, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return penultimate features [n, d] and logits [n, classes] on the CPU."""
    batches = map(teacher.features_and_logits, images.split(_BATCH))
    features, logits = zip(*batches, strict=True)
    return torch.cat(features).cpu(), teacher.class_logits(torch.cat(logits)).cpu()


def _pairwise(measure: Callable[[Tensor, Tensor], float], of: Sequence[Tensor]) -> np.ndarray:
    return np.array([[measure(a, b) for b in of] for a in of]).reshape(len(of), len(of))
