"""All measures of one set of images, class by class and over all classes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from prism_nb.diversity.agreement import all_agree, divergence, pairs_agree
from prism_nb.diversity.cosine import centroid_cosine, intra_class_cosine
from prism_nb.diversity.fidelity import confidence, recognised
from prism_nb.diversity.geometry import UNDEFINED, have_directions
from prism_nb.diversity.kid import kernel_distance
from prism_nb.diversity.manifold import density_coverage
from prism_nb.diversity.neighbours import nearest_among, nearest_within
from prism_nb.diversity.real import RealClass, real_set
from prism_nb.diversity.spread import radius
from prism_nb.diversity.summary import Summary, Values, plain, summarise, summarise_set
from prism_nb.diversity.vendi import vendi_score

_KID_REAL = 10_000  # real images at most: the cost grows with the square


def measure_space(
    features: Tensor, logits: Tensor, real: tuple[RealClass, ...], *, is_reference: bool
) -> dict[str, Any]:
    """Measure a set of images in the feature space of one network.

    Args:
        features: Penultimate features [classes, n, d].
        logits: The network's logits [classes, n, classes].
        real: The real images of each class, as the network sees them.
        is_reference: Whether the images are the real reference, which is not compared with itself.

    Returns:
        Plain values without NaN. `measures`: summaries by name. `nearest_real`: for each image,
        class by class, the `distance` to and the `place` of its nearest training image.
    """
    classes = list(zip(features, logits, real, strict=True))
    nearest = [_nearest(seen, beside, is_reference) for seen, _, beside in classes]
    rows = [
        {
            **_within(seen),
            **_beside(seen, beside),
            **_fidelity(named, c),
            "nearest_real": _mean(nearest[c][0]),
        }
        for c, (seen, named, beside) in enumerate(classes)
    ]
    there = [{"images": len(seen), "real": len(beside.others)} for seen, _, beside in classes]
    return {
        "measures": {**summarise(rows, there), "kid": _kid(features.flatten(0, 1), real)},
        "nearest_real": {
            "distance": [plain(value) for values, _ in nearest for value in values],
            "place": [place for _, places in nearest for place in places],
        },
    }


def measure_agreement(logits: Tensor) -> dict[str, Summary]:
    """Return summaries by name of whether teachers agree on a set of images.

    Args:
        logits: Of T teachers [T, classes, n, classes].
    """
    there = {"teachers": len(logits)}
    rows = [_agreement(seen) for seen in logits.unbind(1)]
    return summarise(rows, [there] * len(rows))


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
    beside = real_set(real, _KID_REAL)
    there = {"set": len(features), "real_set": len(beside)}
    return summarise_set("kid", kernel_distance(features, beside), there)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
