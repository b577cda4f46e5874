"""ImageNet-1K and Tiny-ImageNet, in the folders that their archives unpack to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import read_lines
from prism_nb.data.dataset import Channels, DatasetConfig, ImageDataset, choose_classes
from prism_nb.data.image_folder import (
    TRAIN,
    ImageFolder,
    check_folders,
    class_dirs,
    class_folders,
    train_classes,
)
from prism_nb.data.index import DatasetLayout, ImageDir, imagenet_wnids

IMAGENET_CHANNELS: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VAL, _TINY_VAL, _TINY_LIST = "val", "val/images", "val/val_annotations.txt"
_VAL_LISTS = ("val_classes.txt", "LOC_val_solution.csv")
_VAL_LINE = re.compile(r"(ILSVRC2012_val_\d{8})(?:\.JPEG)?[\s,]+(n\d{8})\b")
_DEVKITS = ("ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t3", ".")
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"


def imagenet1k(config: DatasetConfig) -> ImageDataset:
    """Open ImageNet-1K; see `imagenet_layout`."""
    return ImageFolder(config, imagenet_layout, IMAGENET_CHANNELS)


def imagenet_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<wnid>/*` and `val/<wnid>/*`, or `val/ILSVRC2012_val_*.JPEG` with a list.

    The classes are all thousand, sorted by wnid, or those of the class list in its order. The
    classes of flat held-out images come from the first of these in data_dir: `val_classes.txt`
    (lines of file name and wnid), `LOC_val_solution.csv` (Kaggle), or the unpacked devkit
    `ILSVRC2012_devkit_t12` (ground truth and meta.mat).

    Raises:
        UsageError: A folder, a class or that list is missing, or there are other classes.
    """
    train = train_classes(root)
    classes = choose_classes(train, class_list, where=root / TRAIN)
    if not class_list:
        classes = _all_classes(train, root / TRAIN)
    if not (root / _VAL).is_dir():
        raise UsageError(f"{root} has no folder {_VAL!r} with ImageNet's held-out images; add it")
    lists: tuple[str, ...] = ()
    if folders := class_folders(root / _VAL):
        check_folders(classes, folders, root / _VAL)
        dirs = class_dirs(_VAL, classes)
    else:
        wnids, lists = _flat_val_wnids(root)
        labels = {wnid: label for label, wnid in enumerate(classes)}
        dirs = (ImageDir(_VAL, {name: labels.get(wnid, -1) for name, wnid in wnids.items()}),)
    return DatasetLayout(
        classes=classes,
        dirs={"train": class_dirs(TRAIN, classes), "val": dirs},
        read_from=(".", TRAIN, _VAL, *lists),
    )


def _all_classes(available: Sequence[str], where: Path) -> tuple[str, ...]:
    wnids = imagenet_wnids()
    others = sorted(set(available) - set(wnids))
    if others:
        raise UsageError(
            f"{len(others)} folders of {where} are no class of ImageNet-1K, e.g. {others[0]!r}; "
            "move them away, choose classes by class_list, or use dataset folder"
        )
    missing = sorted(set(wnids) - set(available))
    if missing:
        raise UsageError(
            f"{where} has {len(available)} of ImageNet-1K's thousand classes; {missing[0]!r} is "
            "the first of those missing. Add them, or choose classes by class_list"
        )
    return wnids


def _flat_val_wnids(root: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the wnid of each held-out file, and the files that they were read from."""
    for name in _VAL_LISTS:
        if (root / name).is_file():
            return _from_list(root / name), (name,)
    for folder in _DEVKITS:
        truth, meta = f"{folder}/{_GROUND_TRUTH}", f"{folder}/{_META}"
        if (root / truth).is_file() and (root / meta).is_file():
            return _from_devkit(root / truth, root / meta), (truth, meta)
    raise UsageError(
        f"{root / _VAL} has no class folders, and no file in {root} lists the classes of its "
        "images; add val_classes.txt (lines like 'ILSVRC2012_val_00000001.JPEG n01751748'), "
        f"Kaggle's {_VAL_LISTS[1]}, or the unpacked {_DEVKITS[0]}"
    )


def _from_list(path: Path) -> dict[str, str]:
    wnids: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, where="class list of val"), 1):
        match = _VAL_LINE.match(line)
        if match:
            wnids[f"{match[1]}.JPEG"] = match[2]
        elif not line.startswith("ImageId"):
            raise UsageError(
                f"{path}, entry {number}: {line!r} is no file name and wnid; write lines like "
                "'ILSVRC2012_val_00000001.JPEG n01751748'"
            )
    return wnids


def _from_devkit(truth: Path, meta: Path) -> dict[str, str]:
    """Read the devkit: a class number per image, and the wnid of every number.

    The numbers are the devkit's own; their order is not that of the wnids.
    """
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in read_lines(truth, where="the devkit's ground truth")]
        return {f"ILSVRC2012_val_{i:08d}.JPEG": wnids[n] for i, n in enumerate(numbers, 1)}
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise UsageError(
            f"{truth} and {meta.name} are not a readable devkit: {error!r}; unpack the devkit "
            "again, or write val_classes.txt"
        ) from None


def tiny_imagenet(config: DatasetConfig) -> ImageDataset:
    """Open Tiny-ImageNet; its images are square already, so nothing is cropped."""
    return ImageFolder(config, tiny_layout, margin=1.0)


def tiny_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<wnid>/images/*`, and `val/images/*` with `val/val_annotations.txt`.

    Raises:
        UsageError: A folder or the list is missing, or a line of it cannot be read.
    """
    train = train_classes(root)
    for name in (_TINY_VAL, _TINY_LIST):
        if not (root / name).exists():
            raise UsageError(
                f"{root} has no {name}; unpack the archive of Tiny-ImageNet again, or use dataset "
                "folder if val/ has been sorted into class folders"
            )
    classes = choose_classes(train, class_list, where=root / TRAIN)
    labels = dict.fromkeys(train, -1) | {name: i for i, name in enumerate(classes)}
    val = ImageDir(_TINY_VAL, _tiny_labels(root / _TINY_LIST, labels))
    return DatasetLayout(
        classes=classes,
        dirs={"train": class_dirs(TRAIN, classes, "images"), "val": (val,)},
        read_from=(".", TRAIN, _TINY_VAL, _TINY_LIST),
    )


def _tiny_labels(path: Path, labels: dict[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, where="the list of val"), 1):
        name, wnid = (*line.split("\t"), "")[:2]
        if wnid not in labels:
            raise UsageError(
                f"{path}, line {number}: {wnid!r} is no folder of {TRAIN}/; unpack the archive "
                "again"
            )
        found[name] = labels[wnid]
    return found
