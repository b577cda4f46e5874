"""Label files: one safetensors file per epoch, keyed by image index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prism_nb import files
from prism_nb.artifacts.views import Views
from prism_nb.errors import PrismError
from prism_nb.run import Run

_FORMAT = "prism-nb labels 1"


@dataclass(frozen=True)
class EpochLabels:
    """The views of one epoch and what the teachers say of them.

    Attributes:
        views: One view per image.
        logits: Soft label logits, fp16 [N, classes].
    """

    views: Views
    logits: Tensor


def label_path(method: str, epoch: int) -> str:
    """Return where an epoch's labels lie in a run."""
    return f"labels/{method}/epoch_{epoch:04d}.safetensors"


def save_epoch(run: Run, method: str, epoch: int, labels: EpochLabels, *, binding: str) -> str:
    """Write an epoch's labels and return their path; `binding` is what they depend on."""
    path = label_path(method, epoch)
    tensors = {**labels.views.tensors(), "logits": labels.logits.to(torch.float16)}
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    content = safetensors.torch.save(tensors, metadata=_metadata(binding, tensors))
    files.write_bytes(run.file(path), content)
    return path


def has_epoch(run: Run, method: str, epoch: int, *, binding: str) -> bool:
    """Return whether an epoch's labels are there, whole and of the same binding."""
    try:
        with safe_open(run.file(label_path(method, epoch)), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return False
    return metadata == _metadata(binding, tensors)


def _metadata(binding: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return a label file's own marker: what it depends on, and a digest of what it says.

    One entry only, since safetensors writes several in an order that changes from call to call,
    and equal labels must be equal files.
    """
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(tensors[name].numpy().tobytes())
    return {_FORMAT: f"{binding} {hashed.hexdigest()}"}


def load_epoch(run: Run, method: str, epoch: int, device: torch.device) -> EpochLabels:
    """Read an epoch's labels onto a device.

    Raises:
        PrismError: The file is missing or damaged.
    """
    path = run.file(label_path(method, epoch))
    try:
        tensors = safetensors.torch.load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise PrismError(
            f"labels {path} cannot be read: {error}; run the labels stage again"
        ) from None
    return EpochLabels(Views.from_tensors(tensors), tensors["logits"])
