"""Index of an image tree: classes, files and labels, cached on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from prism_nb.core import fileio
from prism_nb.core.config import default_cache_dir, short_hash
from prism_nb.core.errors import UsageError
from prism_nb.data.dataset import ClassInfo, DatasetConfig, Split
from prism_nb.data.image_io import CorruptImageError, read_image

SPLITS: tuple[Split, Split] = ("train", "val")
_ARRAYS = ("files", "labels", "sizes")  # of a `SplitIndex`
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_IGNORED = frozenset({"thumbs.db", "desktop.ini"})
_FORMAT = 2  # of the cached index; another number makes all of them anew
_SETTLED = 2.0  # seconds: a folder changed later may change again within one tick of its mtime
_LIST_THREADS = 8  # listing waits for the disk or the network, not for the processor
_CHUNK = 10_000  # images decoded per batch of threads; futures of a million take gigabytes


@dataclass(frozen=True)
class ImageDir:
    """A folder of images.

    Attributes:
        folder: Its path, relative to the dataset.
        label: The class of all its images, or of each by file name; -1: left out.
    """

    folder: str
    label: int | Mapping[str, int]


@dataclass(frozen=True)
class DatasetLayout:
    """The folders that hold the images of each class.

    Attributes:
        classes: Folder names of the classes, in order.
        dirs: Folders of images of each split.
        read_from: Folders and files, relative to the dataset, that the layout was read from.
    """

    classes: tuple[str, ...]
    dirs: dict[Split, tuple[ImageDir, ...]]
    read_from: tuple[str, ...]


ReadLayout = Callable[[Path, Sequence[str]], DatasetLayout]  # (data_dir, class_list)


@dataclass(frozen=True)
class SplitIndex:
    """The images of a split.

    Attributes:
        files: Paths relative to the dataset, as bytes of fixed width, in order [N].
        labels: Class of each, int64 [N].
        sizes: Bytes of each, int64 [N].
    """

    files: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray

    def paths(self, root: Path, indices: Iterable[int]) -> list[Path]:
        """Return the files of some images."""
        return [root / os.fsdecode(self.files[i]) for i in indices]


@dataclass(frozen=True)
class Index:
    """The images of a dataset.

    Attributes:
        classes: Folder names of the classes, in order.
        splits: The images of each split.
        corrupt_files: Files left out because they cannot be decoded, relative to the dataset.
    """

    classes: tuple[str, ...]
    splits: dict[Split, SplitIndex]
    corrupt_files: tuple[str, ...]

    def content_hash(self) -> str:
        """Return a digest of the classes and of every file's path, class and size.

        It depends neither on the dataset's path nor on the content of files of equal size.
        """
        digest = hashlib.sha256(json.dumps(list(self.classes)).encode())
        for split in SPLITS:
            for array in vars(self.splits[split]).values():
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
    root, path = config.folder(), _index_path(config)
    cached = _load(path)
    if cached is not None and _mtimes(root, cached[1]) == cached[1]:
        return cached[0]
    started = time.time()
    layout = read_layout(root, config.class_list)
    folders = [place.folder for dirs in layout.dirs.values() for place in dirs]
    mtimes = _mtimes(root, (*layout.read_from, *folders))
    index = _scan(root, layout, config)
    if max(mtimes.values()) < (started - _SETTLED) * 1e9:
        _save(path, index, mtimes)
    return index


# -- scanning --------------------------------------------------------------------------------


def _scan(root: Path, layout: DatasetLayout, config: DatasetConfig) -> Index:
    splits: dict[Split, SplitIndex] = {}
    corrupt: list[str] = []
    for split, dirs in layout.dirs.items():
        part = _label_images(root, dirs, _list_dirs(root, dirs))
        if config.skip_corrupt:
            bad = _find_corrupt(root, part, progress=config.progress)
            corrupt += map(os.fsdecode, part.files[bad])
            part = SplitIndex(*(np.delete(array, bad) for array in vars(part).values()))
        counts = np.bincount(part.labels, minlength=len(layout.classes))
        empty = [name for name, count in zip(layout.classes, counts, strict=True) if not count]
        if empty:
            raise UsageError(
                f"{len(empty)} of {len(layout.classes)} classes have no {split} image under "
                f"{root}, e.g. {empty[0]!r}; add images, or leave the class out by class_list"
            )
        splits[split] = part
    return Index(layout.classes, splits, tuple(corrupt))


_Listing = list[tuple[str, int]]  # names and sizes of image files, sorted by name


def _list_dirs(root: Path, dirs: Sequence[ImageDir]) -> list[_Listing]:
    """List many folders, in their order; refuse entries that are neither images nor ignored."""
    with ThreadPoolExecutor(_LIST_THREADS) as threads:
        listed = list(threads.map(lambda place: _list_dir(root / place.folder), dirs))
    unexpected = [path for _, paths in listed for path in paths]
    if unexpected:
        examples = ", ".join(str(path) for path in unexpected[:3])
        raise UsageError(
            f"{len(unexpected)} entries under {root} are no .jpg, .jpeg, .png or .webp file: "
            f"{examples}{' ...' if unexpected[3:] else ''}; move them away (only hidden files, "
            "Thumbs.db, desktop.ini and *.txt are ignored)"
        )
    return [images for images, _ in listed]


def _list_dir(folder: Path) -> tuple[_Listing, list[str]]:
    """Return the images of a folder, and the paths of all unexpected entries."""
    images, unexpected = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            lower = entry.name.lower()
            if lower.startswith(".") or lower in _IGNORED or lower.endswith(".txt"):
                continue
            if is_image_name(entry.name) and entry.is_file():
                images.append((entry.name, entry.stat().st_size))
            else:
                unexpected.append(entry.path)
    return sorted(images), sorted(unexpected)


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a Path each takes longer than the scan)


def _label_images(root: Path, dirs: Sequence[ImageDir], listings: Sequence[_Listing]) -> SplitIndex:
    """Give every image its class."""
    rows: list[tuple[str, int, int]] = []
    for place, images in zip(dirs, listings, strict=True):
        if not isinstance(place.label, int):
            _check_listed(root / place.folder, place.label, [name for name, _ in images])
        for name, size in images:
            label = place.label if isinstance(place.label, int) else place.label[name]
            if label >= 0:
                rows.append((f"{place.folder}/{name}", label, size))
    return SplitIndex(
        files=np.array([os.fsencode(row[0]) for row in rows], dtype=np.bytes_),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        sizes=np.array([row[2] for row in rows], dtype=np.int64),
    )


def _check_listed(folder: Path, labels: Mapping[str, int], names: Sequence[str]) -> None:
    """Check that a list of classes names the images of a folder, and no others."""
    unlisted = [name for name in names if name not in labels]
    if unlisted:
        raise UsageError(
            f"the class of {folder / unlisted[0]} is not known; complete the list of classes, or "
            "move the file away"
        )
    missing = sorted({name for name, label in labels.items() if label >= 0} - set(names))
    if missing:
        raise UsageError(
            f"{len(missing)} images in the list of classes are not in {folder}, "
            f"e.g. {missing[0]}; unpack them again, or shorten the list"
        )


def _find_corrupt(root: Path, part: SplitIndex, *, progress: bool) -> list[int]:
    """Return the indices of images that cannot be decoded, by decoding all."""

    def is_corrupt(index: int) -> bool:
        try:
            read_image(part.paths(root, [index])[0], 8)
        except CorruptImageError:
            return True
        return False

    count, found = len(part.files), []
    title = f"decoding {count} images once to find damaged ones"
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as threads,
        tqdm(desc=title, total=count, mininterval=2, leave=False, disable=not progress) as bar,
    ):
        for start in range(0, count, _CHUNK):
            indices = range(start, min(start + _CHUNK, count))
            flags = threads.map(is_corrupt, indices)
            found += [index for index, flag in zip(indices, flags, strict=True) if flag]
            bar.update(len(indices))
    return found


# -- the cached index ------------------------------------------------------------------------


def _index_path(config: DatasetConfig) -> Path:
    relevant = replace(config, image_size=0, download=False, progress=False)
    key = short_hash([_FORMAT, *(str(value) for value in vars(relevant).values())])
    return default_cache_dir() / "index" / f"{key}.npz"


def _mtimes(root: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the modification times of folders and files in ns; 0 if missing."""
    return {name: _mtime(root / name) for name in names}


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _save(path: Path, index: Index, mtimes: dict[str, int]) -> None:
    meta = {"classes": index.classes, "corrupt_files": index.corrupt_files, "mtimes": mtimes}
    arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
    for split, part in index.splits.items():
        arrays |= {f"{split}.{name}": array for name, array in vars(part).items()}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    fileio.write_bytes(path, content.getvalue())


def _load(path: Path) -> tuple[Index, dict[str, int]] | None:
    """Return a cached index and its modification times; None if missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            meta = json.loads(stored["meta"].tobytes())
            splits = {
                split: SplitIndex(*(stored[f"{split}.{name}"] for name in _ARRAYS))
                for split in SPLITS
            }
            index = Index(tuple(meta["classes"]), splits, tuple(meta["corrupt_files"]))
            return index, meta["mtimes"]
    except Exception:  # a damaged archive raises almost anything
        return None


# -- class names -----------------------------------------------------------------------------


def class_infos(folders: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Return the classes of some folders, in order.

    A WordNet id gets ImageNet's name for it; any other folder is its own name.
    """
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
        for index, wnid in enumerate(info.label_names()):
            names[wnid] = info.index_to_description(index)
    return names
