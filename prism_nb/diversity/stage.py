"""The work of the diversity stage: measure one set of images in every feature space."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.device import choose_device, tf32_mode
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.units import OnEvent, Unit
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import load_images
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import (
    RealFeatures,
    features_and_logits,
    iter_classes,
    logits_of,
    per_class_quota,
    real_features,
    real_set,
)
from prism_nb.diversity.metrics import (
    METRICS,
    UNDEFINED,
    all_agree,
    centroid_cosine,
    confidence,
    density_coverage,
    intra_class_cosine,
    js_divergence,
    kid,
    mean_distance_to_centroid,
    nearest_in_class,
    nearest_real,
    pairs_agree,
    rows_normalizable,
    top1_hits,
    vendi_score,
)
from prism_nb.models.pool import load_teacher


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Measure one method's images, or the real reference."""
    dataset, name = open_dataset(run.settings), unit.params["method"]
    start = time.monotonic()
    pixels, _ = load_images(run, name, dataset)
    networks, spaces = run.settings.feature_spaces, {}
    with tf32_mode("fp32", choose_device(run.settings.device)):
        for step, network in enumerate(networks, start=1):
            spaces[network] = _space(run, network, pixels, dataset, name == REFERENCE)
            progress = {"step": step, "steps": len(networks) + 1}
            on_event({"event": "step", "unit": unit.name, **progress})
        teachers = teacher_agreement(_teacher_logits(run, pixels, dataset))
    record = {"spaces": spaces, "teachers": {"measures": teachers}}
    seconds = round(time.monotonic() - start, 3)
    run.finish(unit, paths=[], record={**record, "seconds": seconds})


def _space(
    run: Run, name: str, pixels: Tensor, dataset: ImageDataset, is_reference: bool
) -> dict[str, Any]:
    network, settings, classes = load_teacher(run, name), run.settings, len(dataset.classes)
    real = real_features(
        dataset,
        network,
        reference=settings.ipc,
        most=settings.real_per_class,
        seed=settings.seed,
    )
    seen = iter_classes(lambda some: features_and_logits(network, some, dataset), pixels, classes)
    return metrics_in_space(seen, real, is_reference=is_reference)


def _teacher_logits(run: Run, pixels: Tensor, dataset: ImageDataset) -> Iterator[Tensor]:
    """Yield the logits of the pool for the images of each class [teachers, n, classes]."""
    teachers = [load_teacher(run, name) for name in run.settings.teachers]

    def see(some: Tensor) -> tuple[Tensor, ...]:
        return tuple(logits_of(teacher, some, dataset) for teacher in teachers)

    return map(torch.stack, iter_classes(see, pixels, len(dataset.classes)))


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


def metrics_in_space(
    seen: Iterable[tuple[Tensor, ...]], real: tuple[RealFeatures, ...], *, is_reference: bool
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
            "distance": [to_json(value) for one in found for value in one.distances],
            "place": [place for one in found for place in one.places],
        },
    }


def teacher_agreement(seen: Iterable[Tensor]) -> dict[str, Summary]:
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
    c: int, features: Tensor, logits: Tensor, real: tuple[RealFeatures, ...], *, is_reference: bool
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
        for_kid=features[: per_class_quota(len(real), _KID_MOST)].clone(),
    )


def _within(features: Tensor) -> Values:
    vendi = vendi_score(features)
    return {
        "cosine": intra_class_cosine(features),
        "centroid_cosine": centroid_cosine(features),
        "vendi": vendi,
        "vendi_per_image": vendi / len(features),
        "radius": mean_distance_to_centroid(features),
        "nearest_within": nearest_in_class(features),
    }


def _beside(features: Tensor, real: RealFeatures) -> Values:
    density, coverage = density_coverage(features, real.others, real.radii)
    return {"density": density, "coverage": coverage}


def _nearest(
    features: Tensor, real: RealFeatures, is_reference: bool
) -> tuple[list[float], list[Any]]:
    skip = real.reference if is_reference else 0
    among = real.features[skip:]
    if not len(among) or not rows_normalizable(features, among):
        return [UNDEFINED] * len(features), [None] * len(features)
    distance, place = nearest_real(features, among)
    return distance.tolist(), real.places[skip:][place.numpy()].tolist()


def _fidelity(logits: Tensor, c: int) -> Values:
    if not logits.isfinite().all():
        return {"recognised": UNDEFINED, "confidence": UNDEFINED}
    classes = logits.new_full((len(logits),), c).long()
    return {
        "recognised": float(top1_hits(logits, classes).mean()),
        "confidence": float(confidence(logits, classes).mean()),
    }


def _agreement(logits: Tensor) -> Values:
    measures = {"all_agree": all_agree, "pairs_agree": pairs_agree, "divergence": js_divergence}
    if len(logits) < 2 or not logits.isfinite().all():
        return dict.fromkeys(measures, UNDEFINED)
    return {name: float(measure(logits).mean()) for name, measure in measures.items()}


def _kid(features: Tensor, real: tuple[RealFeatures, ...]) -> Summary:
    beside = real_set(real, _KID_MOST)
    there = {"set": len(features), "real_set": len(beside)}
    return summarise_set("kid", kid(features, beside), there)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


Values = dict[str, float]
Summary = dict[str, Any]


def summarise(rows: Sequence[Values], there: Sequence[Mapping[str, int]]) -> dict[str, Summary]:
    """Turn the values of each class into plain values without NaN.

    Args:
        rows: For each class, values by measure; NaN where undefined.
        there: For each class, how many there are of what measures need.

    Returns:
        By measure: `mean` over the classes for which it is defined, `per_class`, and in words why
        it is `undefined` anywhere; None where there is nothing to say.
    """
    return {
        name: _summary([row[name] for row in rows], [METRICS[name].lacks(have) for have in there])
        for name in rows[0]
    }


def summarise_set(name: str, value: float, there: Mapping[str, int]) -> Summary:
    """Turn the value of a whole set, NaN where undefined, into the same form."""
    defined = math.isfinite(value)
    return {
        "mean": to_json(value),
        "per_class": None,
        "undefined": None if defined else METRICS[name].lacks(there),
    }


def to_json(value: float) -> float | None:
    """Return a value that JSON has: None instead of NaN and infinity."""
    return value if math.isfinite(value) else None


def _summary(values: Sequence[float], reasons: Sequence[str]) -> Summary:
    defined = [value for value in values if math.isfinite(value)]
    left_out = [c for c, value in enumerate(values) if not math.isfinite(value)]
    words = reasons[left_out[0]] if left_out else None
    if left_out and defined:
        words = f"{len(left_out)} of {len(values)} classes left out, first {left_out[0]}: {words}"
    return {
        "mean": math.fsum(defined) / len(defined) if defined else None,
        "per_class": [to_json(value) for value in values],
        "undefined": words,
    }
