"""Networks with published or local weights, their heads cut to the classes of a dataset."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

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


def native_preprocess(name: str, dataset: ImageDataset) -> PreprocessConfig:
    """Return a network's preprocessing without reading weights: the dataset's if none is known."""
    known = resolve_weights(name).preprocess if is_pretrained_name(name) else None
    return known or dataset_preprocess(dataset)


def open_pretrained(name: str, dataset: ImageDataset) -> Pretrained:
    """Read a named network's weights and cut its head to a dataset's classes.

    Raises:
        UsageError: The weights are missing, damaged, or of another architecture or other classes.
    """
    spec = resolve_weights(name)
    preprocess = spec.preprocess or dataset_preprocess(dataset)
    classes, size = len(dataset.classes), preprocess.size
    weights = read_weights(spec.file, hash_prefix=spec.hash_prefix)
    weights = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in weights.items()}
    with seeded(0, torch.device("cpu")):
        if spec.library == "timm":
            weights = _as_timm_loads(spec, weights)
        network = build_network(spec.architecture, classes=classes, image_size=size)
    wanted = network.state_dict()
    weights = {key: value for key, value in wanted.items() if key.endswith(_COUNTER)} | weights

    larger = build_on_meta(spec.architecture, classes=classes + 1, image_size=size).state_dict()
    head_keys = [key for key in wanted if wanted[key].shape != larger[key].shape]
    heads = {key: weights[key] for key in head_keys if key in weights}
    head = _head_size(spec, heads)
    if head:
        rows = head_row_indices(spec, head, dataset)
        weights |= {key: value[rows] for key, value in heads.items() if len(value) == head}
    try:
        load_weights(network, weights)
    except RuntimeError as error:
        raise UsageError(
            f"weights {spec.file} are not of {spec.architecture!r}: "
            f"{textwrap.shorten(str(error), 300)}; name the architecture that they are of"
        ) from None
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            raise UsageError(
                f"weights {spec.file} are damaged: {key} holds NaN or infinite values; fetch or "
                "save them again"
            )
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
        UsageError: The head has other classes.
    """
    folders, wnids = [info.folder for info in dataset.classes], imagenet_wnids()
    classes = spec.classes or (wnids if head == len(wnids) else ())
    if set(folders) <= set(classes):
        row_of = {folder: row for row, folder in enumerate(classes)}
        return [row_of[folder] for folder in folders]
    if head == len(folders):
        return list(range(head))
    raise UsageError(
        f"network {spec.name!r} has a head of {head} classes, but {dataset.name} has "
        f"{len(folders)}, which are not among them by folder name (e.g. {folders[0]!r}); take "
        f"weights for these classes, or {spec.architecture!r} alone, which is trained here"
    )


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


def _head_size(spec: WeightsSpec, heads: Mapping[str, Tensor]) -> int:
    """Return the number of classes of a file's head; 0 if it has none."""
    size = max((len(value) for value in heads.values() if value.ndim), default=0)
    if size and spec.head and size != spec.head:
        raise UsageError(
            f"weights {spec.file} have a head of {size} classes, but {spec.head} are named in "
            "their metadata; name all of them, in the head's order"
        )
    return size
