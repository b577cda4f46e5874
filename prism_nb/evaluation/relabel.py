"""Relabel stage: soft labels of every epoch's views of one method's images."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_nb.core.device import choose_device
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import label_paths
from prism_nb.core.units import OnEvent, Unit
from prism_nb.data.augment import epoch_params, identity_params
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.distilled import DeviceImages, load_images
from prism_nb.data.imported import CLASSES_FILE
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import LabelStore
from prism_nb.models.ensemble import EnsembleLabeler, load_labeler
from prism_nb.models.metrics import best_order


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Label one method's images, and record the accuracy of the teachers on them.

    A shard labels some epochs, which the method's own unit then skips, as it does all that are
    labelled. None are stored where `labels` is `online` or `hard`.
    """
    method, start, dataset = unit.params["method"], time.monotonic(), open_dataset(run.settings)
    pixels, classes = load_images(run, method, dataset)
    images = DeviceImages(pixels.to(choose_device(run.settings.device)), dataset)
    labeler, paths = load_labeler(run), label_paths(run.settings, method)
    if paths:
        _store_epochs(run, unit, images, labeler, on_event)
    if unit.parent:
        run.units.finish(unit, paths=paths[slice(*unit.params["epochs"])], record={})
        return
    accuracy, predicted = _teacher_accuracy(labeler, images, classes)
    record = {"seconds": round(time.monotonic() - start, 3), **accuracy}
    if run.settings.recipe_of(method).image_source == "imported":
        record["order_warning"] = order_warning(dataset.classes, predicted, classes.numpy())
    run.units.finish(unit, paths=paths, record=record)
    shutil.rmtree(run.file(f"labels/{method}/pieces"), ignore_errors=True)


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
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the accuracy of each teacher and of the ensemble on the images as they are.

    The second value is the ensemble's top-1 class of each image, int64 [n].
    """
    params = identity_params(len(images), images.size, images.device)
    top1 = torch.zeros(len(labeler.teachers) + 1, len(images), dtype=torch.int64)
    for rows, logits in labeler.blocks(images, params):
        outputs = [each.argmax(1).cpu() for each in [*logits, labeler.combine(logits)]]
        top1[:, rows.cpu()] = torch.stack(outputs)
    *each, ensemble = (top1 == classes).double().mean(1).tolist()
    record = {
        "teachers": [teacher.name for teacher in labeler.teachers],
        "teacher_accuracy": each,
        "ensemble_accuracy": ensemble,
    }
    return record, top1[-1].numpy()


def order_warning(
    classes: Sequence[ClassInfo], predicted: np.ndarray, labels: np.ndarray
) -> str | None:
    """Return what to say of a set whose classes seem to be in another order; None: they do not.

    `predicted` is the class that the label teachers give each image, `labels` the one that the set
    gives it, int64 [n] each.
    """
    right = int((predicted == labels).sum())
    best, taken_for = best_order(predicted, labels, len(classes))
    # What the best of all orders fits by chance: with few images per class, much.
    shuffled = np.random.default_rng(0).permutation(predicted)
    chance, _ = best_order(shuffled, labels, len(classes))
    if best <= max(2 * right, len(labels) / 2, chance + (len(labels) - chance) / 3):
        return None
    first = int(np.argmax(taken_for != np.arange(len(classes))))
    return (
        "its classes seem to be in another order than the dataset's: the label teachers take class "
        f"{first} ({classes[first].folder!r}) for class {taken_for[first]} "
        f"({classes[taken_for[first]].folder!r}), and {best} of {len(labels)} images fit such an "
        f"order, {right} the dataset's; soft labels do not depend on it, hard labels and measures "
        f"by class do: list the class folders in the set's order in a file {CLASSES_FILE} in its "
        "folder, and import it under another name (--as)"
    )
