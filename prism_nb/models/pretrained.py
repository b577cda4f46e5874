"""Networks with weights from elsewhere, cut to the classes of a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from prism_nb.core.device import seeded
from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.weights import WeightsSpec, read_weights, resolve_weights
from prism_nb.models.zoo import architecture_of, build_network, load_weights, resolve_architecture

_SHOWN = 3  # keys that a message names
_LOST = 0.1  # share of a head's classes: so few are missing by mistake rather than left out
_COUNTER = "num_batches_tracked"  # of batch norm; older files lack it, and nothing here reads it
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")  # as torchvision has it


@dataclass(frozen=True)
class Pretrained:
    """A network with weights from elsewhere.

    Attributes:
        network: It, in evaluation mode on the CPU, with a head of the dataset's classes.
        space: How it wants its pixels.
        source: Where its weights come from.
        head: Number of classes that its head had before.
    """

    network: nn.Module
    space: PreprocessConfig
    source: WeightsSpec
    head: int

    def facts(self) -> dict[str, Any]:
        """Return what a run records of the weights, as plain values."""
        return {
            "weights": self.source.tag,
            "weights_file": self.source.file.name,
            "licence": self.source.licence,
            "head_classes": self.head,
            "published_accuracy": self.source.accuracy,
            "space": asdict(self.space),
        }


def open_pretrained(name: str, dataset: ImageDataset) -> Pretrained:
    """Read a named network's weights and cut its head to a dataset's classes.

    Args:
        name: See `find_source`.
        dataset: What it will classify; where nothing else is known, it was trained on such images.

    Raises:
        UsageError: Weights that are missing, damaged, of another architecture or other classes.
    """
    source = resolve_weights(name)
    space = source.space or native_preprocess(name, dataset)
    weights = read_weights(source.file, hash_prefix=source.hash_prefix)
    weights = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in weights.items()}
    head = source.head or _head_size(source, weights, space)
    rows = head_row_indices(source, head, dataset)
    weights = _fitted(source, weights, head, space)
    network = _build(source.architecture, len(dataset.classes), space)
    load_weights(network, _with_rows(source, weights, head, space, rows))
    return Pretrained(network.eval(), space, source, head)


def native_preprocess(name: str, dataset: ImageDataset) -> PreprocessConfig:
    """Return how a network with weights wants its pixels, without reading the weights."""
    canonical = PreprocessConfig(dataset.mean, dataset.std, dataset.image_size)
    return resolve_weights(name).space or canonical


def head_row_indices(source: WeightsSpec, head: int, dataset: ImageDataset) -> list[int]:
    """Return the rows of a head that are a dataset's classes, in the dataset's order.

    Classes are told by their folders' names where both sides have the same ones. A head of which
    no classes are known is ImageNet-1K's if the dataset's folders are among its wnids, and else
    the dataset's own if it has as many. Where nobody chose classes, and the dataset lacks but a
    few of the head's, folders have been lost.

    Raises:
        UsageError: The head has other classes, or nearly all of its own are there.
    """
    folders = [info.folder for info in dataset.classes]
    wnids = imagenet_wnids()
    classes = source.classes or (wnids if head == len(wnids) else ())
    if set(folders) <= set(classes):
        _require_no_loss(source, classes, folders, dataset)
        place = {folder: row for row, folder in enumerate(classes)}
        return [place[folder] for folder in folders]
    if head == len(folders):
        return list(range(head))
    raise UsageError(
        f"network {source.name!r} has a head of {head} classes, but {dataset.name} has "
        f"{len(folders)}, which are not among them by folder name (e.g. {folders[0]!r}); take "
        f"weights for these classes, or {source.architecture!r} alone, which is trained here"
    )


def _require_no_loss(
    source: WeightsSpec, classes: Sequence[str], folders: Sequence[str], dataset: ImageDataset
) -> None:
    """Refuse a dataset with all but a few of a head's classes, unless they were chosen by name."""
    lacking = sorted(set(classes) - set(folders))
    if lacking and not dataset.has_class_list and len(lacking) <= _LOST * len(classes):
        raise UsageError(
            f"network {source.name!r} has a head of {len(classes)} classes, of which "
            f"{dataset.name} has {len(folders)}; {lacking[0]!r} is the first of those missing. "
            "Restore its folder, or, if it is left out on purpose, name the classes in class_list"
        )


def _build(architecture: str, classes: int, space: PreprocessConfig) -> nn.Module:
    with seeded(0, torch.device("cpu")):
        return build_network(architecture, classes=classes, image_size=space.size)


def _head_size(source: WeightsSpec, weights: dict[str, Tensor], space: PreprocessConfig) -> int:
    """Return the class count of a file's head: how long its last tensor of the head is."""
    present = [key for key in _head_keys(source, 2, space) if key in weights]
    if not present or not weights[present[-1]].ndim:
        raise _unfit(source, _misfit(_build(source.architecture, 2, space).state_dict(), weights))
    return len(weights[present[-1]])


def _head_keys(source: WeightsSpec, classes: int, space: PreprocessConfig) -> list[str]:
    """Return the keys whose length depends on the class count."""
    one, other = (
        _build(source.architecture, count, space).state_dict() for count in (classes, classes + 1)
    )
    return [key for key, value in one.items() if value.shape != other[key].shape]


def _fitted(
    source: WeightsSpec, weights: dict[str, Tensor], head: int, space: PreprocessConfig
) -> dict[str, Tensor]:
    """Return weights under the keys of their architecture, all there and of the right shapes."""
    network = _build(source.architecture, head, space)
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key.endswith(_COUNTER):
            weights.setdefault(key, value)
    problem = _misfit(wanted, weights)
    if not problem:
        return weights
    converted = _converted(source, weights, head, space)
    if converted is None:
        _require_all_named(source, weights, head, space)
        raise _unfit(source, problem)
    return converted


def _require_all_named(
    source: WeightsSpec, weights: dict[str, Tensor], head: int, space: PreprocessConfig
) -> None:
    """Refuse a head of another size than the classes that are named beside its file."""
    found = _head_size(source, weights, space)
    if source.library == "file" and source.classes and found != head:
        raise UsageError(
            f"weights {source.file} have a head of {found} classes, but {head} are named beside "
            "them; name all of them, in the head's order"
        )


def _unfit(source: WeightsSpec, problem: str) -> UsageError:
    return UsageError(
        f"weights {source.file} are not of {source.architecture!r}: {problem}; name the "
        "architecture that they are of"
    )


def _misfit(wanted: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """Return the first differences in words; empty if there are none."""
    missing = [key for key in wanted if key not in weights]
    strange = [key for key in weights if key not in wanted]
    shapes = [
        f"{key} is {list(weights[key].shape)} instead of {list(value.shape)}"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    parts = {"missing": missing, "unexpected": strange, "of other shape": shapes}
    return "; ".join(f"{words} {_some(found)}" for words, found in parts.items() if found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _converted(
    source: WeightsSpec, weights: dict[str, Tensor], head: int, space: PreprocessConfig
) -> dict[str, Tensor] | None:
    """Return weights as timm rewrites those of older files, or None where it cannot."""
    library, model = resolve_architecture(architecture_of(source.name))
    if library != "timm" or source.library != "timm":
        return None
    try:
        network = timm.create_model(
            f"{model}.{source.tag}",
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": weights},
            num_classes=head,
        )
    except (RuntimeError, KeyError, AttributeError):
        return None
    found = network.state_dict()
    return None if _misfit(_build(source.architecture, head, space).state_dict(), found) else found


def _with_rows(
    source: WeightsSpec,
    weights: dict[str, Tensor],
    head: int,
    space: PreprocessConfig,
    rows: list[int],
) -> dict[str, Tensor]:
    """Return weights whose head has only some rows, in their order."""
    if rows == list(range(head)):
        return weights
    keys = _head_keys(source, head, space)
    return {**weights, **{key: weights[key][rows] for key in keys}}
