"""ImageNet-1K and Tiny-ImageNet, in the folders that their archives unpack to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prism_nb.core.config import short_hash
from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import read_lines
from prism_nb.data.dataset import (
    Channels,
    DatasetConfig,
    ImageDataset,
    ShapeOnlyDataset,
    choose_classes,
)
from prism_nb.data.image_folder import (
    TRAIN,
    ImageFolder,
    class_dirs,
    class_folders,
    holds_class_folders,
    train_folders,
)
from prism_nb.data.index import DatasetLayout, ImageDir, class_infos, imagenet_wnids

IMAGENET_CHANNELS: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VAL, _TINY_VAL, _TINY_LIST = "val", "val/images", "val/val_annotations.txt"
# The latter is Kaggle's, whose archive has it three folders above `val`.
_VAL_LISTS = ("val_classes.txt", "LOC_val_solution.csv", "../../../LOC_val_solution.csv")
_EXAMPLE = "ILSVRC2012_val_00000001.JPEG n01751748"
_LINE = re.compile(r"(\w+)(?:\.JPEG)?[\s,]+(n\d{8})\b")  # name of an image, and its wnid


def imagenet1k(config: DatasetConfig) -> ImageDataset:
    """Open ImageNet-1K, see `imagenet_layout`; without a `data_dir`, its classes alone."""
    if config.data_dir is not None:
        return ImageFolder(config, imagenet_layout, IMAGENET_CHANNELS)
    wnids = choose_classes(imagenet_wnids(), config.class_list, where="ImageNet-1K's wnids")
    return ShapeOnlyDataset(
        config.name,
        class_infos(wnids),
        config.image_size,
        channels=IMAGENET_CHANNELS,
        content_hash=short_hash(wnids),
    )


def imagenet_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<wnid>/*` and `val/<wnid>/*`, or `val/ILSVRC2012_val_*.JPEG` with a list.

    The classes are all thousand, sorted by wnid, or those of the class list in its order. The
    classes of flat held-out images come from `val_classes.txt` (lines of file name and wnid) or
    `LOC_val_solution.csv` (Kaggle) in data_dir.
    """
    train = train_folders(root)
    classes = choose_classes(train, class_list, where=root / TRAIN)
    differing = sorted(set(train) ^ set(imagenet_wnids()))
    if differing and not class_list:
        raise UsageError(
            f"{root / TRAIN} has {len(train)} class folders, not ImageNet-1K's thousand, e.g. "
            f"{differing[0]!r} differs; choose classes by class_list, or use dataset folder"
        )
    dirs = class_dirs(root, TRAIN, classes)
    if class_folders(root / _VAL):
        return DatasetLayout(classes, dirs, class_dirs(root, _VAL, classes))
    found = next((name for name in _VAL_LISTS if (root / name).is_file()), None)
    if found is None:
        raise UsageError(
            f"{root / _VAL} has no class folders; list the classes of its images in {root}, in "
            f"{_VAL_LISTS[0]} ({_EXAMPLE!r}) or Kaggle's {_VAL_LISTS[1]}"
        )
    return DatasetLayout(classes, dirs, [_listed_dir(_VAL, root / found, classes)], (found,))


def tiny_imagenet(config: DatasetConfig) -> ImageDataset:
    """Open Tiny-ImageNet; its images are square already, so nothing is cropped."""
    return ImageFolder(config, tiny_layout, margin=1.0)


def tiny_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<wnid>/images/*`, and `val/images/*` with `val/val_annotations.txt`.

    Held-out images that were sorted into `val/<wnid>` or `val/images/<wnid>` are read from there,
    unless some of them are left in `val/images`. The folders `images` of classes may be missing.
    """
    classes = choose_classes(train_folders(root), class_list, where=root / TRAIN)
    dirs = class_dirs(root, TRAIN, classes)
    unsorted = root / _TINY_VAL
    is_sorted = set(class_folders(root / _VAL)) - {unsorted.name}
    if (is_sorted and not (unsorted.is_dir() and any(unsorted.iterdir()))) or (
        not is_sorted and holds_class_folders(unsorted)
    ):
        return DatasetLayout(classes, dirs, class_dirs(root, _VAL, classes))
    val = _listed_dir(_TINY_VAL, root / _TINY_LIST, classes)
    return DatasetLayout(classes, dirs, [val], (_TINY_LIST,))


def _listed_dir(folder: str, path: Path, classes: Sequence[str]) -> ImageDir:
    """Return a folder of images of many classes, which a list names; other classes are left out."""
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    labels: dict[str, int] = {}
    for line in read_lines(path, where=f"classes of the images in {folder}"):
        match = _LINE.match(line)
        if match:
            labels[f"{match[1]}.JPEG"] = label_of.get(match[2], -1)
        elif not line.startswith("ImageId"):  # Kaggle's header
            raise UsageError(f"{path}: {line!r} is no file name and wnid, like {_EXAMPLE!r}")
    return ImageDir(folder, labels)
