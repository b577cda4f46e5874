"""Index of an image tree: classes, files and labels, cached on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import UsageError
from prism_nb.core.paths import default_cache_dir
from prism_nb.data.dataset import SPLITS, ClassInfo, DatasetConfig, Split
from prism_nb.data.image_io import are_whole

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What systems leave in folders: Windows, macOS, network disks, Linux.
_IGNORED = {
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "@eadir", "#recycle", "@recycle", "lost+found"),
}
_LIST_THREADS = 8  # listing waits for the disk or the network, not for the processor


class ImageDir(NamedTuple):
    """A folder of images; its path is relative to the dataset."""

    folder: str
    label: int | Mapping[str, int]  # the class of all its images, or of each by name; -1: left out


class DatasetLayout(NamedTuple):
    """The folders that hold the images of each class."""

    classes: tuple[str, ...]  # folder names, in order
    train: Sequence[ImageDir]
    val: Sequence[ImageDir]
    lists: tuple[str, ...] = ()  # files that name the classes of images, relative to the dataset


ReadLayout = Callable[[Path, Sequence[str]], DatasetLayout]  # (data_dir, class_list)


class SplitIndex(NamedTuple):
    """The images of a split."""

    files: np.ndarray  # paths relative to the dataset, as bytes of fixed width, in order [N]
    labels: np.ndarray  # class of each, int64 [N]
    sizes: np.ndarray  # bytes of each, int64 [N]

    def paths(self, root: Path, indices: Iterable[int]) -> list[Path]:
        """Return the files of some images."""
        return [root / os.fsdecode(self.files[i]) for i in indices]


class Index(NamedTuple):
    """The images of a dataset."""

    classes: tuple[str, ...]  # folder names, in order
    splits: dict[Split, SplitIndex]

    def content_hash(self) -> str:
        """Return a digest of the classes and of every file's path, class and size.

        It depends neither on the dataset's path nor on the content of files of equal size.
        """
        digest = hashlib.sha256(json.dumps(list(self.classes)).encode())
        for split in SPLITS:
            for array in self.splits[split]:
                digest.update(f"{split} {array.dtype.str} {len(array)} ".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()[:16]


def open_index(config: DatasetConfig, read_layout: ReadLayout) -> Index:
    """Return the index of a dataset's folder: the cached one if it still holds, else a new one.

    A cached index holds while the modification times of all folders it was made from are
    unchanged; adding, removing or renaming a file changes the time of its folder. Overwriting a
    file in place does not; delete the cache after that.

    Raises:
        UsageError: The tree is not in order.
    """
    root = config.folder()
    key = short_hash([config.name, str(root), config.class_list, *["whole"] * config.skip_damaged])
    path = default_cache_dir() / "index" / f"{key}.npz"
    cached = _load(path, root)
    if cached is not None:
        return cached
    layout = read_layout(root, config.class_list)
    mtimes = _mtimes(root, _sources(layout))  # before the scan: a later change is noticed
    index = _scan(root, layout, config)
    _save(path, index, mtimes)
    return index


# -- scanning --------------------------------------------------------------------------------


def _scan(root: Path, layout: DatasetLayout, config: DatasetConfig) -> Index:
    splits: dict[Split, SplitIndex] = {
        "train": _index_split(root, layout.train),
        "val": _index_split(root, layout.val),
    }
    for split, part in splits.items():
        if config.skip_damaged:
            part = splits[split] = _without_damaged(root, part, progress=config.progress)
        counts = np.bincount(part.labels, minlength=len(layout.classes))
        empty = [name for name, count in zip(layout.classes, counts, strict=True) if not count]
        if empty:
            raise UsageError(
                f"{len(empty)} of {len(layout.classes)} classes have no {split} image under "
                f"{root}, e.g. {empty[0]!r}; add images, or leave the class out by class_list"
            )
    return Index(layout.classes, splits)


def _index_split(root: Path, dirs: Sequence[ImageDir]) -> SplitIndex:
    with ThreadPoolExecutor(_LIST_THREADS) as threads:
        listings = list(threads.map(lambda place: _list_images(root / place.folder), dirs))
    rows: list[tuple[bytes, int, int]] = []
    for (folder, label), sizes in zip(dirs, listings, strict=True):
        labels = dict.fromkeys(sizes, label) if isinstance(label, int) else label
        _check_listed(root / folder, labels, sizes)
        for name, size in sizes.items():
            if labels[name] >= 0:
                rows.append((os.fsencode(f"{folder}/{name}"), labels[name], size))
    return SplitIndex(
        files=np.array([row[0] for row in rows], dtype=np.bytes_),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        sizes=np.array([row[2] for row in rows], dtype=np.int64),
    )


def _without_damaged(root: Path, part: SplitIndex, *, progress: bool) -> SplitIndex:
    """Return the images that can be decoded; a warning tells how many cannot."""
    whole = np.array(are_whole(part.paths(root, range(len(part.files))), progress=progress), bool)
    if not whole.all():
        first = part.paths(root, np.flatnonzero(~whole)[:1])[0]
        warnings.warn(
            f"{(~whole).sum()} images of {len(whole)} cannot be decoded and are left out, e.g. "
            f"{first}",
            stacklevel=2,
        )
    return SplitIndex(*(array[whole] for array in part))


def _list_images(folder: Path) -> dict[str, int]:
    """Return the bytes of each image of a folder, by name and in order of names."""
    sizes: dict[str, int] = {}
    if not folder.is_dir():
        return sizes
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_litter(entry.name) or (entry.is_dir() and not any(Path(entry).iterdir())):
                continue
            if not (is_image_name(entry.name) and entry.is_file()):
                raise UsageError(
                    f"{entry.path} is no .jpg, .jpeg, .png or .webp file; move it away (hidden "
                    "files, *.txt and what systems leave are ignored)"
                )
            sizes[entry.name] = entry.stat().st_size
    return dict(sorted(sizes.items()))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that systems leave behind."""
    return name.startswith(".") or name.lower() in _IGNORED


def is_litter(name: str) -> bool:
    """Return whether a file next to images is to be ignored."""
    return is_hidden(name) or name.lower().endswith(".txt")


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return name.lower().endswith(_IMAGE_SUFFIXES)


def _check_listed(folder: Path, labels: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    """Check that a list of classes names the images of a folder, and no others to be used."""
    used = {name for name, label in labels.items() if label >= 0}
    differing = sorted((used - sizes.keys()) | (sizes.keys() - labels.keys()))
    if differing:
        raise UsageError(
            f"{len(differing)} images are either in {folder} or in the list of its classes, e.g. "
            f"{differing[0]}; unpack the images again, or correct the list"
        )


# -- the cached index ------------------------------------------------------------------------


def _sources(layout: DatasetLayout) -> set[str]:
    """Return all folders and files that an index is made from, relative to the dataset."""
    folders = {place.folder for place in (*layout.train, *layout.val)}
    parents = {str(parent) for folder in folders for parent in PurePosixPath(folder).parents}
    return folders | parents | set(layout.lists)


def _mtimes(root: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the modification times of what exists, in ns."""
    paths = {name: root / name for name in sorted(names)}
    return {name: path.stat().st_mtime_ns for name, path in paths.items() if path.exists()}


def _save(path: Path, index: Index, mtimes: dict[str, int]) -> None:
    arrays = {
        f"{split}.{name}": array
        for split, part in index.splits.items()
        for name, array in part._asdict().items()
    }
    about = json.dumps([index.classes, mtimes])
    content = io.BytesIO()
    np.savez(content, about=np.array(about), **arrays)
    fileio.write_bytes(path, content.getvalue())


def _load(path: Path, root: Path) -> Index | None:
    """Return a cached index; None if it is missing, damaged, or of other modification times."""
    try:
        with np.load(path) as stored:
            classes, mtimes = json.loads(str(stored["about"]))
            if _mtimes(root, mtimes) != mtimes:
                return None
            splits = {
                split: SplitIndex(*(stored[f"{split}.{name}"] for name in SplitIndex._fields))
                for split in SPLITS
            }
            return Index(tuple(classes), splits)
    except Exception:  # a damaged archive raises almost anything
        return None


# -- class names -----------------------------------------------------------------------------


def class_infos(folders: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Return the classes of some folders; a WordNet id gets ImageNet's name for it."""
    wnids = [folder for folder in folders if re.fullmatch(r"n\d{8}", folder)]
    names = _wordnet_names() if wnids else {}  # timm takes seconds to import
    return tuple(
        ClassInfo(i, folder, names.get(folder, folder)) for i, folder in enumerate(folders)
    )


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """Return ImageNet-1K's WordNet ids in the class order of published heads: sorted."""
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@lru_cache(maxsize=1)
def _wordnet_names() -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    names: dict[str, str] = {}
    for subset in ("imagenet-22k", "imagenet-1k"):  # the latter's names win
        info = ImageNetInfo(subset)
        names |= {wnid: info.index_to_description(i) for i, wnid in enumerate(info.label_names())}
    return names
