"""Diversity stage: metrics of a set of images in every feature space; networks' predictions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
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
    real_features,
)
from prism_nb.diversity.metrics import ClassOutputs, Metric, metrics_of, nearest_real
from prism_nb.diversity.predictions import Predictions, predict, write_predictions
from prism_nb.models.pool import load_teacher

_SET_IMAGES = 10_000  # of either set that `set` metrics compare: KID's cost grows with the square

Summary = dict[str, Any]


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Measure one method's images, or the real reference."""
    settings, dataset, name = run.settings, open_dataset(run.settings), unit.params["method"]
    start = time.monotonic()
    pixels, _ = load_images(run, name, dataset)
    networks, spaces = settings.feature_networks_used, {}
    found: dict[str, list[Predictions]] = {network: [] for network in networks}
    with tf32_mode("fp32", choose_device(settings.device)):
        for step, network in enumerate(networks, start=1):
            spaces[network] = _measure(
                run, network, pixels, dataset, found[network], is_reference=name == REFERENCE
            )
            progress = {"step": step, "steps": len(networks) + 1}
            on_event({"event": "step", "unit": unit.name, **progress})
        agreement = teacher_agreement(_teacher_logits(run, pixels, dataset, found))
    record = {"spaces": spaces, "teachers": {"metrics": agreement}}
    seconds = round(time.monotonic() - start, 3)
    path = write_predictions(run, name, found)
    run.units.finish(unit, paths=[path], record={**record, "seconds": seconds})


def _measure(
    run: Run,
    name: str,
    pixels: Tensor,
    dataset: ImageDataset,
    found: list[Predictions],
    *,
    is_reference: bool,
) -> dict[str, Any]:
    network, settings, classes = load_teacher(run, name), run.settings, len(dataset.classes)
    counts = {"reference": settings.ipc, "others": settings.real_per_class, "seed": settings.seed}
    real = real_features(dataset, network, **counts) if dataset.has_images else ()
    device = next(network.parameters()).device
    labels = network.head_labels(torch.arange(classes, device=device)).tolist()

    def outputs() -> Iterator[tuple[Tensor, ...]]:
        extract = partial(features_and_logits, network, dataset=dataset)
        for index, (features, logits) in enumerate(iter_classes(extract, pixels, classes)):
            found.append(predict(logits, labels, index))
            yield features, logits

    return metrics_in_space(outputs(), labels, real, is_reference=is_reference)


def _teacher_logits(
    run: Run, pixels: Tensor, dataset: ImageDataset, found: dict[str, list[Predictions]]
) -> Iterator[Tensor]:
    """Yield the pool's logits for each class [teachers, n, classes]; add predictions to `found`."""
    names, classes = run.settings.pool.logits, len(dataset.classes)
    teachers = [load_teacher(run, name) for name in names]

    def extract(chunk: Tensor) -> tuple[Tensor, ...]:
        return tuple(logits_of(teacher, chunk, dataset) for teacher in teachers)

    new = [(place, found.setdefault(n, [])) for place, n in enumerate(names) if n not in found]
    for index, logits in enumerate(iter_classes(extract, pixels, classes)):
        for place, parts in new:
            parts.append(predict(logits[place], range(classes), index))
        yield torch.stack(logits)


def metrics_in_space(
    outputs: Iterable[tuple[Tensor, ...]],
    labels: Sequence[int],
    real: tuple[RealFeatures, ...],
    *,
    is_reference: bool,
) -> dict[str, Any]:
    """Return the metrics of a set of images in the feature space of one network.

    Args:
        outputs: For each class in order, features [n, d] and head logits [n, head] of its images;
            iterated once, so that a large set need not be in memory.
        labels: Output of the head for each class.
        real: Features of the real images of each class; empty where there are no real images.
        is_reference: Whether the images are the reference, which is not compared with itself.

    Returns:
        JSON values. `metrics`: summaries by name. `nearest_real`: for each image, class by class,
        the `distance` to its nearest training image and the `index` of that in its split.
    """
    class_metrics, values = metrics_of("class"), list[dict[str, float]]()
    distances, indices = list[float | None](), list[int | None]()
    sets, quota = list[tuple[Tensor, Tensor]](), max(1, _SET_IMAGES // len(labels))
    for index, (features, logits) in enumerate(outputs):
        mine = real[index] if real else RealFeatures.none(features.shape[1])
        skipped = mine.reference if is_reference else 0
        nearest, rows = nearest_real(features, mine.features[skipped:])
        sample = ClassOutputs(labels[index], features, logits, mine.others, mine.radii, nearest)
        values.append({metric.name: metric.value(sample) for metric in class_metrics})
        for distance, row in zip(map(_to_json, nearest.tolist()), rows.tolist(), strict=True):
            distances.append(distance)
            found = None if distance is None else int(mine.indices[skipped + row])
            indices.append(found)
        sets.append((features[:quota].clone(), mine.others[:quota]))
    both = [torch.cat(each) for each in zip(*sets, strict=True)]
    of_sets = summarise(metrics_of("set"), [{m.name: m.value(*both) for m in metrics_of("set")}])
    for summary in of_sets.values():
        summary["per_class"] = None
    return {
        "metrics": summarise(class_metrics, values) | of_sets,
        "nearest_real": {"distance": distances, "index": indices},
    }


def teacher_agreement(logits: Iterable[Tensor]) -> dict[str, Summary]:
    """Return summaries by name, of the logits of T teachers for each class [T, n, classes]."""
    metrics = metrics_of("teachers")
    return summarise(metrics, [{m.name: m.value(some) for m in metrics} for some in logits])


def summarise(metrics: Sequence[Metric], classes: Sequence[dict[str, float]]) -> dict[str, Summary]:
    """Return JSON values of metrics by name.

    `classes` are values by name for each class; NaN where undefined.

    Returns:
        `mean` over the classes with a value, `per_class`, and `undefined`: why some class has
        none, or None.
    """
    found = {}
    for metric in metrics:
        values = [each[metric.name] for each in classes]
        defined = [value for value in values if math.isfinite(value)]
        left_out = [c for c, value in enumerate(values) if not math.isfinite(value)]
        reason = metric.why_undefined if left_out else None
        if left_out and defined:
            left = f"{len(left_out)} of {len(values)} classes left out, first {left_out[0]}"
            reason = f"{left}: {reason}"
        found[metric.name] = {
            "mean": math.fsum(defined) / len(defined) if defined else None,
            "per_class": [_to_json(value) for value in values],
            "undefined": reason,
        }
    return found


def _to_json(value: float) -> float | None:
    return value if math.isfinite(value) else None
