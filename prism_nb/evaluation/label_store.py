"""Label files: one safetensors file per epoch, keyed by image index."""

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
from prism_nb.core.hashing import hash_tensors
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import label_path, label_unit
from prism_nb.data.augment import BatchAugParams
from prism_nb.data.registry import open_dataset

_FORMAT = "prism-nb labels 3"


@dataclass(frozen=True)
class EpochLabels:
    """The views of one epoch and what the teachers say of them.

    Attributes:
        views: One view per image.
        logits: Soft label logits [N, classes]; None where the true classes are the labels.
    """

    views: BatchAugParams
    logits: Tensor | None


class LabelStore:
    """The label files of one method's images.

    Each file names what it was made from: settings, networks, the images' hashes and the order of
    the classes. So labels of other images, or of classes in another order, are never read.

    Args:
        run: The run.
        method: The method.
    """

    def __init__(self, run: Run, method: str) -> None:
        self._run, self._method = run, method
        # Labels can be read where the dataset is not at hand.
        order = run.read_classes()
        self._classes = len(order or open_dataset(run.settings).classes)
        unit = label_unit(run, method, self._classes)
        self._source = short_hash([unit.fingerprint, run.content(unit.inputs), order])

    def save(
        self, epoch: int, views: BatchAugParams, labels: Iterable[tuple[Tensor, Tensor]]
    ) -> None:
        """Write an epoch's labels, as the run's `label_format` says.

        Args:
            epoch: The epoch.
            views: Its views, one per image.
            labels: Rows, int64 [n], and their soft label logits [n, classes], part by part until
                every image has had its own; each part is let go once it is encoded.
        """
        tensors = {name: value.cpu().contiguous() for name, value in views.to_tensors().items()}
        settings = self._run.settings
        for rows, logits in labels:
            fields = encode(logits, settings.label.format, top_k=settings.label.top_k)
            for name, value in fields.items():
                if name not in tensors:
                    shape = len(views.crop), *value.shape[1:]
                    tensors[name] = value.new_empty(shape, device="cpu")
                tensors[name][rows.cpu()] = value.cpu()
        content = safetensors.torch.save(tensors, metadata=self._metadata(tensors))
        fileio.write_bytes(self._run.file(label_path(self._method, epoch)), content)

    def has(self, epoch: int) -> bool:
        """Return whether an epoch's labels are there, whole and made from the same."""
        try:
            with safe_open(self._run.file(label_path(self._method, epoch)), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return False
        return metadata == self._metadata(tensors)

    def load(self, epoch: int, device: torch.device, *, count: int) -> EpochLabels:
        """Read an epoch's labels onto a device.

        Args:
            epoch: The epoch.
            device: Where to.
            count: Number of images that they must be of.

        Raises:
            PrismError: The file is missing or damaged, or was made from something else.
        """
        path = self._run.file(label_path(self._method, epoch))
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                made_from = (file.metadata() or {}).get(_FORMAT, "").partition(" ")[0]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            labels = EpochLabels(
                BatchAugParams.from_tensors(tensors), decode(tensors, self._classes)
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise PrismError(
                f"labels {path} cannot be read: {error}; run the labels stage again"
            ) from None
        if made_from != self._source:
            raise PrismError(
                f"labels {path} were made from other images, networks, settings or an order of "
                "classes that is not the run's; run the labels stage again"
            )
        if len(tensors["crop"]) != count:
            raise PrismError(
                f"labels {path} are of {len(tensors['crop'])} images, but there are {count}; run "
                "the labels stage again"
            )
        return labels

    def _metadata(self, tensors: dict[str, Tensor]) -> dict[str, str]:
        """Return a file's own marker: what it was made from, and a digest of what it says.

        One entry only, since safetensors writes several in an order that changes from call to
        call, and equal labels must be equal files.
        """
        return {_FORMAT: f"{self._source} {hash_tensors(tensors)}"}


Fields = dict[str, Tensor]
_FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
_LEVELS = 254  # of int8, symmetric


def encode(logits: Tensor, kind: str, *, top_k: int) -> Fields:
    """Return named tensors to store in place of logits.

    Args:
        logits: [N, C].
        kind: `fp32`, `fp16`, `int8` (each row between its smallest and its largest value, in 255
            levels) or `top_k` (a row's largest in fp16 with their classes; the probability that
            they leave is spread evenly over the other classes).
        top_k: Logits that `top_k` keeps; all, if there are fewer classes.
    """
    if kind in _FLOATS:
        return {"logits": logits.to(_FLOATS[kind])}
    return _as_bytes(logits.float()) if kind == "int8" else _largest(logits.float(), top_k)


def decode(fields: Fields, classes: int) -> Tensor:
    """Undo `encode`, to rounding or to what was kept.

    Args:
        fields: What `encode` returned.
        classes: Number of classes, C.

    Returns:
        Logits [N, C], float32, or float16 where they were stored so.

    Raises:
        KeyError: Fields are missing.
        ValueError: They are of another number of classes.
    """
    if "levels" in fields:
        logits = fields["middle"][:, None] + fields["levels"].float() * fields["step"][:, None]
    elif "top" in fields:
        highest = int(fields["classes"].max())
        if highest >= classes:
            raise ValueError(f"labels are of class {highest}, but there are {classes} classes")
        logits = fields["rest"].float()[:, None].repeat(1, classes)
        logits.scatter_(1, fields["classes"].long(), fields["top"].float())
    else:
        logits = fields["logits"]
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(f"labels are of {logits.shape[-1]} classes, not {classes}")
    return logits


def _as_bytes(logits: Tensor) -> Fields:
    low, high = logits.aminmax(dim=1)
    middle, step = (low + high) / 2, (high - low) / _LEVELS
    levels = ((logits - middle[:, None]) / step.clamp_min(1e-30)[:, None]).round()
    return {"levels": levels.to(torch.int8), "step": step, "middle": middle}


def _largest(logits: Tensor, count: int) -> Fields:
    """Keep the largest, and of the others the one logit that has their total probability."""
    classes = logits.shape[1]
    top, places = logits.topk(min(count, classes), dim=1)
    others = logits.scatter(1, places, -math.inf)
    spread = math.log(max(classes - top.shape[1], 1))
    rest = torch.logsumexp(others, dim=1) - spread  # minus infinity where nothing is left
    return {
        "top": top.to(torch.float16),
        "classes": places.to(_id_type(classes)),
        "rest": rest.to(torch.float16),
    }


_PARAMS_BYTES = 8 + 1 + 4 + 8 + 4  # of the augmentation parameters of one view


def label_bytes(settings: Settings, images: int, classes: int) -> float:
    """Return the bytes of all epochs of labels of so many images; 0 where none are stored."""
    if settings.labels != "stored":
        return 0.0
    row = row_bytes(settings.label.format, classes, top_k=settings.label.top_k)
    return images * settings.label.epochs * (_PARAMS_BYTES + row)


def row_bytes(kind: str, classes: int, *, top_k: int) -> int:
    """Return the bytes of one view's logits."""
    kept = min(top_k, classes)
    return {
        "fp32": 4 * classes,
        "fp16": 2 * classes,
        "int8": classes + 8,
        "top_k": (2 + _id_type(classes).itemsize) * kept + 2,
    }[kind]


def _id_type(classes: int) -> torch.dtype:
    return torch.int16 if classes <= torch.iinfo(torch.int16).max else torch.int32
