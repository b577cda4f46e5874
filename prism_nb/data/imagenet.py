"""ImageNet-1K: a thousand WordNet ids in the published order; its held-out images may lie flat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import read_lines
from prism_nb.data.dataset import Channels, DatasetConfig, ImageDataset
from prism_nb.data.image_folder import ImageFolder
from prism_nb.data.index import (
    TRAIN,
    DatasetLayout,
    ImageDir,
    check_folders,
    check_train,
    choose_classes,
    class_dirs,
    class_folders,
    imagenet_wnids,
)

IMAGENET_CHANNELS: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VAL = "val"
_LISTS = ("val_classes.txt", "LOC_val_solution.csv")
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_DEVKITS = ("ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t3", ".")
_LINE = re.compile(r"(ILSVRC2012_val_\d{8})(?:\.JPEG)?[\s,]+(n\d{8})\b")


def imagenet1k(source: DatasetConfig) -> ImageDataset:
    """Open ImageNet-1K; see `imagenet_layout`."""
    return ImageFolder(source, imagenet_layout, IMAGENET_CHANNELS)


def imagenet_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<wnid>/*` and `val/<wnid>/*`, or `val/ILSVRC2012_val_*.JPEG` with a list.

    The classes are the thousand, sorted by wnid as in every published head, or those of the class
    list in its order. What says the class of flat held-out images, the first found in data_dir:
    `val_classes.txt` (lines of file name and wnid), `LOC_val_solution.csv` (Kaggle's), or the
    devkit `ILSVRC2012_devkit_t12` (ground truth and meta.mat, as unpacked).

    Raises:
        UsageError: A folder, a class or that list is missing, or there are classes too many.
    """
    check_train(root)
    here = class_folders(root / TRAIN)
    classes = choose_classes(here, class_list, where=root / TRAIN)
    if not class_list:
        classes = _the_thousand(here, root / TRAIN)
    if not (root / _VAL).is_dir():
        raise UsageError(f"{root} has no folder {_VAL!r} with ImageNet's held-out images; add it")
    there = class_folders(root / _VAL)
    lists: tuple[str, ...] = ()
    if there:
        check_folders(classes, there, root / _VAL)
        places = class_dirs(_VAL, classes)
    else:
        wnids, lists = _flat_classes(root)
        labels = {name: label for label, name in enumerate(classes)}
        places = (ImageDir(_VAL, {name: labels.get(wnid, -1) for name, wnid in wnids.items()}),)
    return DatasetLayout(
        classes=classes,
        places={"train": class_dirs(TRAIN, classes), "val": places},
        read_from=(".", TRAIN, _VAL, *lists),
    )


def _the_thousand(available: Sequence[str], where: Path) -> tuple[str, ...]:
    wnids = imagenet_wnids()
    strangers = sorted(set(available) - set(wnids))
    if strangers:
        raise UsageError(
            f"{len(strangers)} folders of {where} are none of ImageNet-1K's thousand classes, e.g. "
            f"{strangers[0]!r}; move them away, choose classes by class_list, or ask for dataset "
            "folder"
        )
    lacking = sorted(set(wnids) - set(available))
    if lacking:
        raise UsageError(
            f"{where} has {len(available)} of ImageNet-1K's thousand classes; {lacking[0]!r} is "
            "the first of those missing. Add them, or choose classes by class_list"
        )
    return wnids


def _flat_classes(root: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the wnid of each held-out file, and the files that say so."""
    for name in _LISTS:
        if (root / name).is_file():
            return _listed(root / name), (name,)
    for folder in _DEVKITS:
        truth, meta = f"{folder}/{_TRUTH}", f"{folder}/{_META}"
        if (root / truth).is_file() and (root / meta).is_file():
            return _by_devkit(root / truth, root / meta), (truth, meta)
    raise UsageError(
        f"{root / _VAL} has no class folders, and nothing in {root} says the class of its images; "
        f"add val_classes.txt (lines like 'ILSVRC2012_val_00000001.JPEG n01751748'), Kaggle's "
        f"{_LISTS[1]}, or the unpacked {_DEVKITS[0]}"
    )


def _listed(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, where="class list of val"), 1):
        match = _LINE.match(line)
        if match:
            found[f"{match[1]}.JPEG"] = match[2]
        elif not line.startswith("ImageId"):
            raise UsageError(
                f"{path}, entry {number}: {line!r} is no file name and wnid; write lines like "
                "'ILSVRC2012_val_00000001.JPEG n01751748'"
            )
    return found


def _by_devkit(truth: Path, meta: Path) -> dict[str, str]:
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
            f"{truth} and {meta.name} cannot be understood: {error!r}; unpack the devkit again, or "
            "write val_classes.txt"
        ) from None


_INNER = "images"
_TINY_VAL = f"val/{_INNER}"
_LIST = "val/val_annotations.txt"


def tiny_imagenet(source: DatasetConfig) -> ImageDataset:
    """Open Tiny-ImageNet; its images are square already, so nothing is cut off."""
    return ImageFolder(source, tiny_layout, margin=1.0)


def tiny_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<wnid>/images/*`, and `val/images/*` with `val/val_annotations.txt`.

    Raises:
        UsageError: A folder or the list is missing, or a line of it cannot be read.
    """
    check_train(root)
    for name in (_TINY_VAL, _LIST):
        if not (root / name).exists():
            raise UsageError(
                f"{root} has no {name}; unpack the archive of Tiny-ImageNet anew, or ask for "
                "dataset folder where val/ has been sorted into class folders"
            )
    here = class_folders(root / TRAIN)
    classes = choose_classes(here, class_list, where=root / TRAIN)
    labels = dict.fromkeys(here, -1) | {name: i for i, name in enumerate(classes)}
    return DatasetLayout(
        classes=classes,
        places={
            "train": class_dirs(TRAIN, classes, _INNER),
            "val": (ImageDir(_TINY_VAL, _tiny_listed(root / _LIST, labels)),),
        },
        read_from=(".", TRAIN, _TINY_VAL, _LIST),
    )


def _tiny_listed(path: Path, labels: dict[str, int]) -> dict[str, int]:
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
