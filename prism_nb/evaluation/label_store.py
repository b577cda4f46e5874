"""Stored soft labels: one safetensors file per epoch, with four encodings of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.torch_io import hash_tensors
from prism_nb.core.unit_plan import label_path, label_unit
from prism_nb.data.augment import BatchAugParams, identity_params
from prism_nb.data.registry import open_dataset

_FORMAT = "prism-nb labels 3"
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class EpochLabels:
    """Augmentation parameters of one epoch's views, one per image, and their labels."""

    params: BatchAugParams  # the parameters
    # Soft label logits [N, classes]; None where the true classes are the labels
    logits: Tensor | None


class LabelStore:
    """The label files of one method's images.

    Each file carries a hash of its tensors and of what they depend on (settings, networks, images,
    class order), so that labels of anything else are never read.
    """

    def __init__(self, run: Run, method: str) -> None:
        self._run, self._method = run, method
        # Labels can be read where the dataset is absent.
        order = run.read_classes()
        self._classes = len(order or open_dataset(run.settings).classes)
        unit = label_unit(run, method, self._classes)
        self._fingerprint = short_hash(
            [unit.fingerprint, run.units.inputs_hash(unit.inputs), order]
        )

    def save(
        self, epoch: int, params: BatchAugParams, labels: Iterable[tuple[Tensor, Tensor]]
    ) -> None:
        """Write an epoch's labels in the run's `label_format`.

        `labels` are rows, int64 [n], and their logits [n, classes], block by block; together they
        have every image once.
        """
        label = self._run.settings.label
        tensors = {name: value.cpu().contiguous() for name, value in params.to_tensors().items()}
        for rows, logits in labels:
            for name, value in encode(logits, label.format, top_k=label.top_k).items():
                if name not in tensors:
                    shape = len(params.crop), *value.shape[1:]
                    tensors[name] = value.new_empty(shape, device="cpu")
                tensors[name][rows.cpu()] = value.cpu()
        # One entry of metadata: safetensors writes several in an order that changes from call to
        # call, and equal labels must be equal files.
        metadata = {_FORMAT: f"{self._fingerprint} {hash_tensors(tensors)}"}
        content = safetensors.torch.save(tensors, metadata=metadata)
        fileio.write_bytes(self._run.file(label_path(self._method, epoch)), content)

    def has(self, epoch: int) -> bool:
        """Return whether an epoch's labels are there and `load` would accept them."""
        try:
            self._read(epoch)
        except PrismError:
            return False
        return True

    def load(self, epoch: int, device: torch.device) -> EpochLabels:
        """Read an epoch's labels onto a device.

        Raises:
            PrismError: The file is missing or damaged, or made from something else.
        """
        tensors = {name: value.to(device) for name, value in self._read(epoch).items()}
        return EpochLabels(BatchAugParams.from_tensors(tensors), decode(tensors, self._classes))

    def _read(self, epoch: int) -> dict[str, Tensor]:
        path, problem = self._run.file(label_path(self._method, epoch)), ""
        try:
            with safe_open(path, framework="pt") as file:
                fingerprint, _, checksum = (file.metadata() or {}).get(_FORMAT, "").partition(" ")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if fingerprint != self._fingerprint:
                problem = "were made from other images, networks, settings or another class order"
            elif checksum != hash_tensors(tensors):
                problem = "are damaged"
        except (OSError, SafetensorError) as error:
            problem = f"cannot be read: {error}"
        if problem:
            raise PrismError(f"labels {path} {problem}; run the relabel stage again")
        return tensors


_INT8_STEPS = 254  # symmetric


def encode(logits: Tensor, kind: str, *, top_k: int) -> dict[str, Tensor]:
    """Return named tensors to store in place of logits.

    Args:
        logits: [N, C].
        kind: `fp32`, `fp16`, `int8` (255 levels between the smallest and largest value of a row)
            or `top_k` (the largest of a row in fp16; the remaining probability is spread evenly
            over the other classes).
        top_k: Number of logits that `top_k` stores, at most C.
    """
    if kind == "int8":
        return _int8(logits.float())
    if kind == "top_k":
        return _top_k(logits.float(), top_k)
    return {"logits": logits.to({"fp32": torch.float32, "fp16": torch.float16}[kind])}


def decode(tensors: dict[str, Tensor], classes: int) -> Tensor:
    """Return logits [N, classes] from the result of `encode`, float32, or float16 if stored so."""
    if "levels" in tensors:
        return tensors["middle"][:, None] + tensors["levels"].float() * tensors["step"][:, None]
    if "top" in tensors:
        logits = tensors["rest"].float()[:, None].repeat(1, classes)
        return logits.scatter_(1, tensors["classes"].long(), tensors["top"].float())
    return tensors["logits"]


def _int8(logits: Tensor) -> dict[str, Tensor]:
    low, high = logits.aminmax(dim=1)
    middle, step = (low + high) / 2, (high - low) / _INT8_STEPS
    levels = ((logits - middle[:, None]) / step.clamp_min(1e-30)[:, None]).round()
    return {"levels": levels.to(torch.int8), "step": step, "middle": middle}


def _top_k(logits: Tensor, count: int) -> dict[str, Tensor]:
    """Keep the largest logits, and one for all others that preserves their total probability."""
    classes = logits.shape[1]
    top, indices = logits.topk(min(count, classes), dim=1)
    others = logits.scatter(1, indices, -math.inf)
    rest = torch.logsumexp(others, dim=1) - math.log(max(classes - top.shape[1], 1))
    index_type = torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32
    return {
        "top": top.to(torch.float16),
        "classes": indices.to(index_type),
        "rest": rest.to(torch.float16),  # minus infinity where no other is left
    }


def label_bytes(settings: Settings, images: int, classes: int) -> float:
    """Return the bytes of all stored epochs of labels of `images` images; 0 if none are stored."""
    if settings.labels != "stored":
        return 0.0
    label = settings.label
    params = identity_params(1, settings.image_size, _CPU).to_tensors()
    logits = encode(torch.zeros(1, classes), label.format, top_k=label.top_k)
    view = sum(tensor.nbytes for tensor in [*params.values(), *logits.values()])
    return float(images * label.epochs * view)
