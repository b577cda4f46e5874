"""All measures of one set of images, class by class and over all classes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prism_nb.diversity.agreement import all_agree, divergence, pairs_agree
from prism_nb.diversity.cosine import centroid_cosine, intra_class_cosine
from prism_nb.diversity.fidelity import confidence, recognised
from prism_nb.diversity.geometry import UNDEFINED, have_directions
from prism_nb.diversity.kid import kernel_distance
from prism_nb.diversity.manifold import density_coverage
from prism_nb.diversity.neighbours import nearest_among, nearest_within
from prism_nb.diversity.real import RealClass, real_set, share_of
from prism_nb.diversity.spread import radius
from prism_nb.diversity.summary import Summary, Values, plain, summarise, summarise_set
from prism_nb.diversity.vendi import vendi_score

_KID_MOST = 10_000  # images of either set: the cost grows with the square


@dataclass(frozen=True)
class _Class:
    """What is kept of the images of a class.

    Attributes:
        values: By measure.
        there: How many there are of what measures need.
        distances: Of each image to its nearest training image.
        places: Where that lies in the training split.
        for_kid: Features of the images that KID compares.
    """

    values: Values
    there: dict[str, int]
    distances: list[float]
    places: list[Any]
    for_kid: Tensor


def measure_space(
    seen: Iterable[tuple[Tensor, ...]], real: tuple[RealClass, ...], *, is_reference: bool
) -> dict[str, Any]:
    """Measure a set of images in the feature space of one network.

    Args:
        seen: For each class in order, penultimate features [n, d] and logits [n, classes]. They
            are gone over once, and what is done with is let go.
        real: The real images of each class, as the network sees them.
        is_reference: Whether the images are the real reference, which is not compared with itself.

    Returns:
        Plain values without NaN. `measures`: summaries by name. `nearest_real`: for each image,
        class by class, the `distance` to and the `place` of its nearest training image.
    """
    found = [
        _measure_class(c, features, logits, real, is_reference=is_reference)
        for c, (features, logits) in enumerate(seen)
    ]
    kid = _kid(torch.cat([one.for_kid for one in found]), real)
    return {
        "measures": {**summarise([o.values for o in found], [o.there for o in found]), "kid": kid},
        "nearest_real": {
            "distance": [plain(value) for one in found for value in one.distances],
            "place": [place for one in found for place in one.places],
        },
    }


def measure_agreement(seen: Iterable[Tensor]) -> dict[str, Summary]:
    """Return summaries by name of whether teachers agree on a set of images.

    Args:
        seen: For each class in order, the logits of T teachers [T, n, classes]; gone over once.
    """
    rows, there = [], []
    for logits in seen:
        rows.append(_agreement(logits))
        there.append({"teachers": len(logits)})
    return summarise(rows, there)


def _measure_class(
    c: int, features: Tensor, logits: Tensor, real: tuple[RealClass, ...], *, is_reference: bool
) -> _Class:
    beside = real[c]
    distances, places = _nearest(features, beside, is_reference)
    return _Class(
        values={
            **_within(features),
            **_beside(features, beside),
            **_fidelity(logits, c),
            "nearest_real": _mean(distances),
        },
        there={"images": len(features), "real": len(beside.others)},
        distances=distances,
        places=places,
        for_kid=features[: share_of(len(real), _KID_MOST)].clone(),
    )


def _within(features: Tensor) -> Values:
    vendi = vendi_score(features)
    return {
        "cosine": intra_class_cosine(features),
        "centroid_cosine": centroid_cosine(features),
        "vendi": vendi,
        "vendi_per_image": vendi / len(features),
        "radius": radius(features),
        "nearest_within": nearest_within(features),
    }


def _beside(features: Tensor, real: RealClass) -> Values:
    density, coverage = density_coverage(features, real.others, real.radii)
    return {"density": density, "coverage": coverage}


def _nearest(
    features: Tensor, real: RealClass, is_reference: bool
) -> tuple[list[float], list[Any]]:
    skip = real.reference if is_reference else 0
    among = real.features[skip:]
    if not len(among) or not have_directions(features, among):
        return [UNDEFINED] * len(features), [None] * len(features)
    distance, place = nearest_among(features, among)
    return distance.tolist(), real.places[skip:][place.numpy()].tolist()


def _fidelity(logits: Tensor, c: int) -> Values:
    if not logits.isfinite().all():
        return {"recognised": UNDEFINED, "confidence": UNDEFINED}
    classes = logits.new_full((len(logits),), c).long()
    return {
        "recognised": float(recognised(logits, classes).mean()),
        "confidence": float(confidence(logits, classes).mean()),
    }


def _agreement(logits: Tensor) -> Values:
    measures = {"all_agree": all_agree, "pairs_agree": pairs_agree, "divergence": divergence}
    if len(logits) < 2 or not logits.isfinite().all():
        return dict.fromkeys(measures, UNDEFINED)
    return {name: float(measure(logits).mean()) for name, measure in measures.items()}


def _kid(features: Tensor, real: tuple[RealClass, ...]) -> Summary:
    beside = real_set(real, _KID_MOST)
    there = {"set": len(features), "real_set": len(beside)}
    return summarise_set("kid", kernel_distance(features, beside), there)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
