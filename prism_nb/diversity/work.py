"""The work of the diversity stage: measure one set of images in every feature space."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from prism_nb.artifacts.images import load_set
from prism_nb.backends import OnEvent
from prism_nb.data import open_dataset
from prism_nb.device import choose_device
from prism_nb.diversity.cosine import intra_class_cosine
from prism_nb.run import Run
from prism_nb.teachers.pool import load_teacher
from prism_nb.teachers.teacher import Teacher
from prism_nb.units import Unit

_BATCH = 256


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Measure one method's images, or the real reference."""
    dataset, name = open_dataset(run.settings), unit.key["method"]
    start = time.monotonic()
    pixels, classes = load_set(run, name, dataset)
    images = dataset.canonical(pixels.to(choose_device(run.settings.device)))
    spaces = {
        network: _measure(load_teacher(run, network), images, classes, len(dataset.classes))
        for network in run.settings.feature_spaces
    }
    record = {"spaces": spaces, "seconds": round(time.monotonic() - start, 3)}
    run.finish(unit, paths=[], record=record)


@torch.no_grad()
def _measure(network: Teacher, images: Tensor, classes: Tensor, count: int) -> dict[str, Any]:
    parts = images.split(_BATCH)
    features = torch.cat([network.features(part) for part in parts]).cpu()
    predicted = torch.cat([network(part).argmax(1) for part in parts]).cpu()
    per_class = intra_class_cosine(features, classes, count=count)
    defined = bool(torch.isfinite(per_class).all())
    return {
        "cosine_per_class": per_class.tolist() if defined else None,
        "cosine": per_class.mean().item() if defined else None,
        "recognised": float((predicted == classes).float().mean()),
    }
