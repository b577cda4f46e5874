"""The work of the diversity stage: measure one set of images in every feature space."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from prism_nb.artifacts.images import load_set
from prism_nb.backends import OnEvent
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.device import choose_device, matrix_precision
from prism_nb.diversity.measure import measure_agreement, measure_space
from prism_nb.diversity.perception import class_by_class, logits_of, look_at
from prism_nb.diversity.real import real_classes
from prism_nb.plans.diversity import REFERENCE
from prism_nb.run import Run
from prism_nb.teachers.pool import load_teacher
from prism_nb.units import Unit


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Measure one method's images, or the real reference."""
    dataset, name = open_dataset(run.settings), unit.key["method"]
    start = time.monotonic()
    pixels, _ = load_set(run, name, dataset)
    networks, spaces = run.settings.feature_spaces, {}
    with matrix_precision("fp32", choose_device(run.settings.device)):
        for step, network in enumerate(networks, start=1):
            spaces[network] = _space(run, network, pixels, dataset, name == REFERENCE)
            progress = {"step": step, "steps": len(networks) + 1}
            on_event({"event": "step", "unit": unit.name, **progress})
        teachers = measure_agreement(_teacher_logits(run, pixels, dataset))
    record = {"spaces": spaces, "teachers": {"measures": teachers}}
    seconds = round(time.monotonic() - start, 3)
    run.finish(unit, paths=[], record={**record, "seconds": seconds})


def _space(
    run: Run, name: str, pixels: Tensor, dataset: ImageDataset, is_reference: bool
) -> dict[str, Any]:
    network, settings, classes = load_teacher(run, name), run.settings, len(dataset.classes)
    real = real_classes(
        dataset,
        network,
        reference=settings.ipc,
        most=settings.real_per_class,
        seed=settings.seed,
    )
    seen = class_by_class(lambda some: look_at(network, some, dataset), pixels, classes)
    return measure_space(seen, real, is_reference=is_reference)


def _teacher_logits(run: Run, pixels: Tensor, dataset: ImageDataset) -> Iterator[Tensor]:
    """Yield the logits of the pool for the images of each class [teachers, n, classes]."""
    teachers = [load_teacher(run, name) for name in run.settings.teachers]

    def see(some: Tensor) -> tuple[Tensor, ...]:
        return tuple(logits_of(teacher, some, dataset) for teacher in teachers)

    return map(torch.stack, class_by_class(see, pixels, len(dataset.classes)))
