"""The work of the relabelling: label every epoch's views of one method's images."""

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
    """Label one method's images; epochs that are already labelled from them are kept.

    Nothing is stored where labels are made during the training, or are the true classes; how well
    the teachers know the images is recorded all the same.
    """
    settings, method = run.settings, unit.params["method"]
    start = time.monotonic()
    pixels, classes = load_images(run, method, open_dataset(settings))
    images = DeviceImages(pixels.to(choose_device(settings.device)), open_dataset(settings))
    labeler, paths = load_labeler(run), label_paths(settings, method)
    if paths:
        _store(run, unit, images, labeler, on_event)
    known = _known(labeler, images, classes)
    seconds = round(time.monotonic() - start, 3)
    run.finish(unit, paths=paths, record={"seconds": seconds, **known})
    shutil.rmtree(run.file(f"labels/{method}/pieces"), ignore_errors=True)


def label_shard(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Label some epochs of one method's images; the method's own unit finds them there."""
    settings, method = run.settings, unit.params["method"]
    pixels, _ = load_images(run, method, open_dataset(settings))
    images = DeviceImages(pixels.to(choose_device(settings.device)), open_dataset(settings))
    _store(run, unit, images, load_labeler(run), on_event)
    paths = label_paths(settings, method)[slice(*unit.params["epochs"])]
    run.finish(unit, paths=paths, record={})


def _store(
    run: Run, unit: Unit, images: DeviceImages, labeler: EnsembleLabeler, on_event: OnEvent
) -> None:
    settings, store = run.settings, LabelStore(run, unit.params["method"])
    epochs = range(*unit.params.get("epochs", (0, settings.label.epochs)))
    for done, epoch in enumerate(epochs, start=1):
        # An interrupted unit has epochs but no marker; each file says what it is made from.
        if not store.has(epoch):
            views = epoch_params(settings, len(images), epoch, images.device)
            store.save(epoch, views, labeler.labels(images, views))
        on_event({"event": "step", "unit": unit.name, "step": done, "steps": len(epochs)})


def _known(labeler: EnsembleLabeler, images: DeviceImages, classes: Tensor) -> dict[str, Any]:
    """Return the shares of the images whose class the teachers know, apart and together."""
    views = identity_params(len(images), images.size, images.device)
    known = torch.zeros(len(labeler.teachers) + 1, dtype=torch.int64)
    for rows, logits in labeler.blocks(images, views):
        named = torch.stack([said.argmax(1) for said in [*logits, labeler.combine(logits)]])
        known += (named.cpu() == classes[rows.cpu()]).sum(1)
    *each, together = (known.double() / len(images)).tolist()
    return {
        "teachers": [teacher.name for teacher in labeler.teachers],
        "teacher_accuracy": each,
        "ensemble_accuracy": together,
    }
