"""Networks with published or local weights, their heads cut to the classes of a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from prism_nb.core.device import seeded
from prism_nb.core.errors import UsageError
from prism_nb.core.units import is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.teacher import PreprocessConfig, dataset_preprocess
from prism_nb.models.weights import WeightsSpec, read_weights, resolve_weights
from prism_nb.models.zoo import build_network, build_on_meta, load_weights

_SHOWN = 3  # state-dict keys that a message names
_MAX_LOST = 0.1  # share of a head's classes; so few are missing by mistake rather than by choice
_COUNTER = "num_batches_tracked"  # of batch norm; older files lack it, and it changes no result
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")  # older key names


@dataclass(frozen=True)
class Pretrained:
    """A network with published or local weights.

    Attributes:
        network: The network on the CPU, in evaluation mode, with a head of the dataset's classes.
        preprocess: The preprocessing that it needs.
        spec: Its weights.
        head: Number of classes of the weights' own head.
    """

    network: nn.Module
    preprocess: PreprocessConfig
    spec: WeightsSpec
    head: int

    def facts(self) -> dict[str, Any]:
        """Return the record of the weights in a run, as plain values."""
        return {
            "weights": self.spec.tag,
            "weights_file": self.spec.file.name,
            "licence": self.spec.licence,
            "head_classes": self.head,
            "published_accuracy": self.spec.accuracy,
            "preprocess": asdict(self.preprocess),
        }


def native_preprocess(name: str, dataset: ImageDataset) -> PreprocessConfig:
    """Return a network's preprocessing without reading weights: the dataset's if none is known."""
    known = resolve_weights(name).preprocess if is_pretrained_name(name) else None
    return known or dataset_preprocess(dataset)


def open_pretrained(name: str, dataset: ImageDataset) -> Pretrained:
    """Read a named network's weights and cut its head to a dataset's classes.

    Args:
        name: See `resolve_weights`.
        dataset: The images to classify.

    Raises:
        UsageError: The weights are missing, damaged, or of another architecture or other classes.
    """
    spec = resolve_weights(name)
    preprocess = spec.preprocess or dataset_preprocess(dataset)
    size = preprocess.size
    weights = read_weights(spec.file, hash_prefix=spec.hash_prefix)
    weights = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in weights.items()}
    with seeded(0, torch.device("cpu")):
        if spec.library == "timm":
            weights = _as_timm_loads(spec, weights)
        network = build_network(spec.architecture, classes=len(dataset.classes), image_size=size)
    wanted = network.state_dict()
    weights = {key: value for key, value in wanted.items() if key.endswith(_COUNTER)} | weights

    head_keys = _head_keys(spec.architecture, size)
    head = _head_size(spec, weights, head_keys)
    if head:
        rows = head_row_indices(spec, head, dataset)
        heads = {key: weights[key] for key in head_keys if key in weights}
        weights |= {key: value[rows] for key, value in heads.items() if len(value) == head}
    mismatch = _mismatch(wanted, weights)
    if mismatch or not head:
        raise UsageError(
            f"weights {spec.file} are not of {spec.architecture!r}: {mismatch}; name the "
            "architecture that they are of"
        )
    load_weights(network, weights)
    return Pretrained(network.eval(), preprocess, spec, head)


def head_row_indices(spec: WeightsSpec, head: int, dataset: ImageDataset) -> list[int]:
    """Return the rows of a head that belong to a dataset's classes, in the dataset's order.

    Classes are matched by folder name. A head of unknown classes is ImageNet-1K's if it has 1,000
    and the dataset's folders are among its wnids, else the dataset's own if it has as many.

    Args:
        spec: The weights.
        head: Number of classes of their head.
        dataset: The images to classify.

    Raises:
        UsageError: The head has other classes; or the dataset lacks so few of its classes that
            folders must have been lost.
    """
    folders = [info.folder for info in dataset.classes]
    wnids = imagenet_wnids()
    classes = spec.classes or (wnids if head == len(wnids) else ())
    if not set(folders) <= set(classes):
        if head == len(folders):
            return list(range(head))
        raise UsageError(
            f"network {spec.name!r} has a head of {head} classes, but {dataset.name} has "
            f"{len(folders)}, which are not among them by folder name (e.g. {folders[0]!r}); take "
            f"weights for these classes, or {spec.architecture!r} alone, which is trained here"
        )
    lacking = sorted(set(classes) - set(folders))
    if lacking and not dataset.has_class_list and len(lacking) <= _MAX_LOST * len(classes):
        raise UsageError(
            f"network {spec.name!r} has a head of {len(classes)} classes, of which "
            f"{dataset.name} has {len(folders)}; {lacking[0]!r} is the first of those missing. "
            "Restore its folder, or, if it is left out on purpose, name the classes in class_list"
        )
    row_of = {folder: row for row, folder in enumerate(classes)}
    return [row_of[folder] for folder in folders]


def _as_timm_loads(spec: WeightsSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of today's timm, which renames those of older programs."""
    model = spec.architecture.removeprefix("timm/")
    try:
        network = timm.create_model(
            f"{model}.{spec.tag}",
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": weights},
        )
    except (RuntimeError, KeyError, AttributeError):
        return weights  # of another architecture, which is reported with the keys that differ
    return dict(network.state_dict())


def _head_keys(architecture: str, image_size: int) -> list[str]:
    """Return the state-dict keys whose length is the number of classes."""
    two, three = (
        build_on_meta(architecture, classes=count, image_size=image_size).state_dict()
        for count in (2, 3)
    )
    return [key for key, value in two.items() if value.shape != three[key].shape]


def _head_size(spec: WeightsSpec, weights: Mapping[str, Tensor], keys: list[str]) -> int:
    """Return the number of classes of a file's head; 0 if it has none."""
    heads = [weights[key] for key in keys if key in weights]
    size = len(heads[-1]) if heads and heads[-1].ndim else 0
    if size and spec.head and size != spec.head:
        raise UsageError(
            f"weights {spec.file} have a head of {size} classes, but {spec.head} are named in "
            "their metadata; name all of them, in the head's order"
        )
    return size


def _mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return the first differences between two state dicts; empty if there are none."""
    shapes = [
        f"{key} is {list(found[key].shape)} instead of {list(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    differences = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of other shape": shapes,
    }
    return "; ".join(
        f"{kind} {', '.join(keys[:_SHOWN])}"
        + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
        for kind, keys in differences.items()
        if keys
    )
