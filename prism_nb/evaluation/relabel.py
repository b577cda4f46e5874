"""Relabel stage: soft labels of every epoch's views of one method's images."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.device import choose_device
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import label_paths
from prism_nb.core.units import OnEvent, Unit
from prism_nb.data.augment import epoch_params, identity_params
from prism_nb.data.distilled import DeviceImages, load_images
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import LabelStore
from prism_nb.models.ensemble import EnsembleLabeler, load_labeler


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Label one method's images, and record the accuracy of the teachers on them.

    Epochs that are already labelled are skipped. None are stored where `labels` is `online` or
    `hard`.
    """
    if unit.parent:
        _label_shard(run, unit, on_event)
        return
    method, start = unit.params["method"], time.monotonic()
    images, classes = _load(run, method)
    labeler, paths = load_labeler(run), label_paths(run.settings, method)
    if paths:
        _store_epochs(run, unit, images, labeler, on_event)
    accuracy = _teacher_accuracy(labeler, images, classes)
    seconds = round(time.monotonic() - start, 3)
    run.units.finish(unit, paths=paths, record={"seconds": seconds, **accuracy})
    shutil.rmtree(run.file(f"labels/{method}/pieces"), ignore_errors=True)


def _label_shard(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Label some epochs of one method's images; the method's own unit then skips them."""
    method = unit.params["method"]
    images, _ = _load(run, method)
    _store_epochs(run, unit, images, load_labeler(run), on_event)
    paths = label_paths(run.settings, method)[slice(*unit.params["epochs"])]
    run.units.finish(unit, paths=paths, record={})


def _load(run: Run, method: str) -> tuple[DeviceImages, Tensor]:
    dataset = open_dataset(run.settings)
    pixels, classes = load_images(run, method, dataset)
    return DeviceImages(pixels.to(choose_device(run.settings.device)), dataset), classes


def _store_epochs(
    run: Run, unit: Unit, images: DeviceImages, labeler: EnsembleLabeler, on_event: OnEvent
) -> None:
    settings, store = run.settings, LabelStore(run, unit.params["method"])
    epochs = range(*unit.params.get("epochs", (0, settings.label.epochs)))
    for done, epoch in enumerate(epochs, start=1):
        # An interrupted unit left files but no marker; each file proves what it was made from.
        if not store.has(epoch):
            params = epoch_params(settings, len(images), epoch, images.device)
            store.save(epoch, params, labeler.labels(images, params))
        on_event({"event": "step", "unit": unit.name, "step": done, "steps": len(epochs)})


def _teacher_accuracy(
    labeler: EnsembleLabeler, images: DeviceImages, classes: Tensor
) -> dict[str, Any]:
    """Return the accuracy of each teacher and of the ensemble on the images as they are."""
    params = identity_params(len(images), images.size, images.device)
    hits = torch.zeros(len(labeler.teachers) + 1, dtype=torch.int64)
    for rows, logits in labeler.blocks(images, params):
        top1 = torch.stack([each.argmax(1) for each in [*logits, labeler.combine(logits)]])
        hits += (top1.cpu() == classes[rows.cpu()]).sum(1)
    *each, ensemble = (hits.double() / len(images)).tolist()
    return {
        "teachers": [teacher.name for teacher in labeler.teachers],
        "teacher_accuracy": each,
        "ensemble_accuracy": ensemble,
    }
