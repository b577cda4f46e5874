"""Tiny-ImageNet, as its archive unpacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prism_nb.data.base import ImageDataset
from prism_nb.data.folder import ImageFolder
from prism_nb.data.layout import TRAIN, Layout, choose_classes, class_places, require_train
from prism_nb.data.scan import Place, class_folders
from prism_nb.data.source import Source
from prism_nb.errors import UsageError
from prism_nb.strict import read_lines

_INNER = "images"
_VAL = f"val/{_INNER}"
_LIST = "val/val_annotations.txt"


def tiny_imagenet(source: Source) -> ImageDataset:
    """Open Tiny-ImageNet; its images are square already, so nothing is cut off."""
    return ImageFolder(source, tiny_layout, margin=1.0)


def tiny_layout(root: Path, class_list: Sequence[str]) -> Layout:
    """Read `train/<wnid>/images/*`, and `val/images/*` with `val/val_annotations.txt`.

    Raises:
        UsageError: A folder or the list is missing, or a line of it cannot be read.
    """
    require_train(root)
    for name in (_VAL, _LIST):
        if not (root / name).exists():
            raise UsageError(
                f"{root} has no {name}; unpack the archive of Tiny-ImageNet anew, or ask for "
                "dataset folder where val/ has been sorted into class folders"
            )
    here = class_folders(root / TRAIN)
    classes = choose_classes(here, class_list, where=root / TRAIN)
    labels = dict.fromkeys(here, -1) | {name: i for i, name in enumerate(classes)}
    return Layout(
        classes=classes,
        places={
            "train": class_places(TRAIN, classes, _INNER),
            "val": (Place(_VAL, _listed(root / _LIST, labels)),),
        },
        read_from=(".", TRAIN, _VAL, _LIST),
    )


def _listed(path: Path, labels: dict[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, where="the list of val"), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in labels:
            raise UsageError(
                f"{path}, line {number}: {wnid!r} is no folder of {TRAIN}/; unpack the archive anew"
            )
        found[name] = labels[wnid]
    return found
