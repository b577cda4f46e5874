"""Predictions on record: the likeliest classes of every image by every network, and its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import diversity_unit

_TOP = 3
_OTHER = -1  # a class of the head that the dataset lacks


@dataclass(frozen=True)
class Predictions:
    """What a network takes images for."""

    # The three likeliest classes, the likeliest first, int64 [n, 3]; -1 for one that the dataset
    # lacks. Fewer columns where the head has fewer outputs.
    classes: Tensor
    probabilities: Tensor  # theirs, float32 [n, 3]
    loss: Tensor  # cross-entropy with each image's class, nats, float32 [n]


def predict(logits: Tensor, labels: Sequence[int], classes: Tensor | int) -> Predictions:
    """Return the predictions of logits.

    Logits are those of the head [n, head]; `labels` are the outputs for the dataset's classes,
    `classes` the class of each image, int64 [n], or of all.
    """
    class_of = torch.full((logits.shape[1],), _OTHER)
    class_of[torch.tensor(labels)] = torch.arange(len(labels))
    top = logits.float().softmax(1).topk(min(_TOP, logits.shape[1]))
    own = torch.tensor(labels)[classes].expand(len(logits))
    loss = functional.cross_entropy(logits.float(), own, reduction="none")
    return Predictions(class_of[top.indices], top.values, loss)


def predictions_path(method: str) -> str:
    """Return the file of a method's predictions, relative to the run."""
    return f"diversity/{method}.safetensors"


def write_predictions(run: Run, method: str, found: Mapping[str, Sequence[Predictions]]) -> str:
    """Write the predictions of networks, class by class, and return the path in the run."""
    tensors = {
        f"{network}/{field.name}": torch.cat([getattr(part, field.name) for part in parts])
        for network, parts in found.items()
        for field in fields(Predictions)
    }
    path = predictions_path(method)
    fileio.write_bytes(run.file(path), safetensors.torch.save(tensors))
    return path


def read_predictions(run: Run, method: str) -> dict[str, Predictions]:
    """Return every network's predictions of a method's images, class by class.

    Empty where the images are not measured, or were before predictions went on record.
    """
    unit = diversity_unit(run, method, len(run.read_classes() or []))
    if predictions_path(method) not in run.units.files(unit):
        return {}
    try:
        tensors = safetensors.torch.load_file(run.file(predictions_path(method)))
    except (OSError, SafetensorError):
        return {}
    names = [field.name for field in fields(Predictions)]
    networks = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {n: Predictions(*(tensors[f"{n}/{name}"] for name in names)) for n in networks}
