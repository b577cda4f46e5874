"""Where a dataset comes from, as the settings say it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from prism_nb.core import fileio
from prism_nb.core.config import default_cache_dir, short_hash
from prism_nb.core.errors import UsageError, suggest
from prism_nb.data.dataset import ClassInfo, DatasetConfig, Split
from prism_nb.data.image_io import CorruptImageError, read_image

TRAIN = "train"
_HELD_OUT = ("val", "validation", "test")


@dataclass(frozen=True)
class DatasetLayout:
    """Where the images of each class lie.

    Attributes:
        classes: Folder names of the classes, in order.
        places: Folders of images of each split.
        read_from: Folders and files that decided all this, from the dataset's folder.
    """

    classes: tuple[str, ...]
    places: dict[Split, tuple[ImageDir, ...]]
    read_from: tuple[str, ...]


def folder_layout(root: Path, class_list: Sequence[str]) -> DatasetLayout:
    """Read `train/<class>/*` and `val/<class>/*`, where val may be called validation or test.

    Raises:
        UsageError: A folder is missing, a class is in one split only, or a wanted one in none.
    """
    check_train(root)
    held_out = held_out_folder(root)
    here, there = class_folders(root / TRAIN), class_folders(root / held_out)
    classes = choose_classes(here, class_list, where=root / TRAIN)
    check_folders(classes, there, root / held_out)
    if not class_list:
        check_folders(there, here, root / TRAIN)
    return DatasetLayout(
        classes=classes,
        places={"train": class_dirs(TRAIN, classes), "val": class_dirs(held_out, classes)},
        read_from=(".", TRAIN, held_out),
    )


def class_dirs(folder: str, classes: Sequence[str], inner: str = "") -> tuple[ImageDir, ...]:
    """Return a place per class; `inner` is a folder within each that holds the images."""
    end = f"/{inner}" if inner else ""
    return tuple(ImageDir(f"{folder}/{name}{end}", label) for label, name in enumerate(classes))


def check_train(root: Path) -> None:
    """Refuse a folder without `train/`."""
    if not (root / TRAIN).is_dir():
        raise UsageError(
            f"{root} has no folder {TRAIN!r}; data_dir must hold {TRAIN}/<class>/<image> and "
            "val/<class>/<image>"
        )


def held_out_folder(root: Path) -> str:
    """Return the name of the folder of held-out images.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = [name for name in _HELD_OUT if (root / name).is_dir()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{root} has no folder of held-out images; name it val, validation or test"
        )
    raise UsageError(
        f"{root} has {' and '.join(found)}; which one is held out? Move the others out of data_dir"
    )


def choose_classes(
    available: Sequence[str], class_list: Sequence[str], *, where: Path
) -> tuple[str, ...]:
    """Return the wanted classes in the wanted order; all that are available where none is named.

    Raises:
        UsageError: A wanted class is not there, or there is none at all.
    """
    if not available:
        raise UsageError(f"{where} holds no folder; each class needs one, with its images")
    known = set(available)
    unknown = [name for name in class_list if name not in known]
    if unknown:
        raise UsageError(
            f"class_list: {len(unknown)} of {len(class_list)} names are no folder of {where}, "
            f"e.g. {unknown[0]!r}; {suggest(unknown[0], available)}"
        )
    return tuple(class_list or available)


def check_folders(wanted: Sequence[str], available: Sequence[str], where: Path) -> None:
    """Refuse classes without a folder."""
    lacking = sorted(set(wanted) - set(available))
    if lacking:
        raise UsageError(
            f"{len(lacking)} classes have no folder in {where}, e.g. {lacking[0]!r}; a class must "
            "be in both splits: add the folder, or choose classes by class_list"
        )


IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_JUNK = frozenset({"thumbs.db", "desktop.ini"})
_THREADS = 8  # listing waits for the disk or the network, not for the processor


@dataclass(frozen=True)
class ImageDir:
    """A folder of images.

    Attributes:
        folder: Where it is, from the dataset's folder.
        label: The class of all its images, or of each by name; -1 for those not wanted.
    """

    folder: str
    label: int | Mapping[str, int]

    def label_of(self, name: str) -> int | None:
        """Return an image's class, or None where nothing says it."""
        return self.label if isinstance(self.label, int) else self.label.get(name)


@dataclass(frozen=True)
class DirListing:
    """What lies in a folder.

    Attributes:
        images: Names and sizes in bytes of image files, sorted by name.
        strangers: Names of all else, but for known junk.
    """

    images: list[tuple[str, int]]
    strangers: list[str]


def is_ignored(name: str) -> bool:
    """Return whether a file may be overlooked: hidden files, thumbnails, notes."""
    return name.startswith(".") or name.lower() in _JUNK or name.lower().endswith(".txt")


def list_folder(folder: Path) -> DirListing:
    """List a folder of images."""
    images, strangers = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if _is_image(entry.name) and entry.is_file():
                images.append((entry.name, entry.stat().st_size))
            else:
                strangers.append(entry.name)
    return DirListing(sorted(images), sorted(strangers))


def list_image_dirs(root: Path, places: Sequence[ImageDir]) -> list[DirListing]:
    """List many folders, in their order.

    Raises:
        UsageError: Something there is no image, or has no class; all are counted, some named.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        listed = list(threads.map(lambda place: list_folder(root / place.folder), places))
    strangers = [
        root / place.folder / name
        for place, found in zip(places, listed, strict=True)
        for name in found.strangers
    ]
    if strangers:
        shown = ", ".join(str(path) for path in strangers[:3])
        raise UsageError(
            f"{len(strangers)} entries under {root} are no .jpg, .jpeg, .png or .webp file: "
            f"{shown}{' ...' if strangers[3:] else ''}; move them away (only hidden files, "
            "Thumbs.db, desktop.ini and *.txt are overlooked)"
        )
    return listed


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; hidden ones are left out.

    Raises:
        UsageError: Images lie beside the folders, so that nothing says their class; one is named.
    """
    folders, loose = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif _is_image(entry.name):
                loose.append(entry.name)
    if folders and loose:
        raise UsageError(
            f"{len(loose)} images lie beside the class folders of {folder}, e.g. {min(loose)}; "
            "move each into the folder of its class, or away"
        )
    return sorted(folders)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS  # noqa: PTH122 (a Path each takes longer than the scan)


_WNID = re.compile(r"n\d{8}")


def class_infos(folders: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Return the classes of some folders, in order.

    A folder that is a WordNet id gets ImageNet's name, as timm lists them, where there is one;
    any other is called what it is.
    """
    return tuple(ClassInfo(i, folder, _name(folder)) for i, folder in enumerate(folders))


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """Return ImageNet-1K's thousand WordNet ids in the order of every published head."""
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def _name(folder: str) -> str:
    return _wordnet_names().get(folder, folder) if _WNID.fullmatch(folder) else folder


@lru_cache(maxsize=1)
def _wordnet_names() -> dict[str, str]:
    # Only where wnids occur: timm takes seconds to import.
    from timm.data.imagenet_info import ImageNetInfo

    names: dict[str, str] = {}
    for subset in ("imagenet-22k", "imagenet-1k"):  # the latter's words win
        info = ImageNetInfo(subset)
        for index, wnid in enumerate(info.label_names()):
            names[wnid] = info.index_to_description(index)
    return names


SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True)
class SplitIndex:
    """The images of a split.

    Attributes:
        folders: Folders of images, from the dataset's folder.
        at: In which of them each image lies, int32 [N].
        names: File names, as bytes of fixed width, in order [N].
        labels: Class of each, int64 [N].
        sizes: Bytes of each, int64 [N].
    """

    folders: tuple[str, ...]
    at: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray

    def paths(self, root: Path, indices: Sequence[int]) -> list[Path]:
        """Return the files of some images."""
        return [root / self.folders[self.at[i]] / os.fsdecode(self.names[i]) for i in indices]

    def without(self, places: Sequence[int]) -> SplitIndex:
        """Return the split without some images."""
        kept = np.delete(np.arange(len(self.names)), places)
        parts = (self.at, self.names, self.labels, self.sizes)
        return SplitIndex(self.folders, *(part[kept] for part in parts))


@dataclass(frozen=True)
class Index:
    """The images of a dataset.

    Attributes:
        classes: Folder names of the classes, in order.
        splits: The images of each split.
        damaged: Files left out because they cannot be decoded, from the dataset's folder.
        content: Digest of the classes and of every file's name, class and size. It does not
            depend on where the dataset lies, and does not see what files of equal size hold.
    """

    classes: tuple[str, ...]
    splits: dict[Split, SplitIndex]
    damaged: tuple[str, ...]
    content: str


def make_index(
    classes: Sequence[str], splits: dict[Split, SplitIndex], damaged: Sequence[str] = ()
) -> Index:
    """Put an index together and digest it.

    Raises:
        UsageError: A class has no image in a split; it is named.
    """
    for split, part in splits.items():
        counts = np.bincount(part.labels, minlength=len(classes))
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            raise UsageError(
                f"{len(empty)} of {len(classes)} classes have no {split} image, e.g. {empty[0]!r} "
                f"(in {_folder_of(part, empty[0])}); add images, or leave the class out by "
                "class_list"
            )
    content = _digest(classes, splits, ("names", "labels", "sizes"))
    return Index(tuple(classes), splits, tuple(damaged), content)


def _folder_of(part: SplitIndex, name: str) -> str:
    """Return the folder of a class; of images that lie flat, the one folder of all."""
    return next((folder for folder in part.folders if name in Path(folder).parts), part.folders[0])


def index_dirs(root: Path, places: Sequence[ImageDir], found: Sequence[DirListing]) -> SplitIndex:
    """Give every image found its class.

    Raises:
        UsageError: Nothing says the class of an image, or one that is listed is not there.
    """
    rows: list[tuple[int, str, int, int]] = []
    for at, (place, listed) in enumerate(zip(places, found, strict=True)):
        _require_listed(root, place, listed)
        for name, size in listed.images:
            label = place.label_of(name)
            if label is None:
                raise UsageError(
                    f"nothing says the class of {root / place.folder / name}; complete the list "
                    "of classes, or move the file away"
                )
            if label >= 0:
                rows.append((at, name, label, size))
    return SplitIndex(
        folders=tuple(place.folder for place in places),
        at=np.array([row[0] for row in rows], dtype=np.int32),
        names=np.array([os.fsencode(row[1]) for row in rows], dtype=np.bytes_),
        labels=np.array([row[2] for row in rows], dtype=np.int64),
        sizes=np.array([row[3] for row in rows], dtype=np.int64),
    )


def _require_listed(root: Path, place: ImageDir, listed: DirListing) -> None:
    if isinstance(place.label, int):
        return
    there = {name for name, _ in listed.images}
    gone = [name for name, label in place.label.items() if label >= 0 and name not in there]
    if gone:
        raise UsageError(
            f"{len(gone)} images that the list of classes names are not in {root / place.folder}, "
            f"e.g. {gone[0]}; unpack them again, or shorten the list"
        )


def save_index(path: Path, index: Index, stat_networks: dict[str, int]) -> None:
    """Keep an index with the times of the folders that it was made from."""
    meta = {
        "classes": index.classes,
        "damaged": index.damaged,
        "content": index.content,
        "watched": stat_networks,
        "folders": {split: part.folders for split, part in index.splits.items()},
    }
    arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
    for split, part in index.splits.items():
        for name in ("at", "names", "labels", "sizes"):
            arrays[f"{split}.{name}"] = getattr(part, name)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    fileio.write_bytes(path, content.getvalue())


def load_index(path: Path) -> tuple[Index, dict[str, int]] | None:
    """Return a kept index and its folders' times, or None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            splits = {split: _load_split(arrays, split, meta["folders"][split]) for split in SPLITS}
            damaged, content = tuple(meta["damaged"]), meta["content"]
            return Index(tuple(meta["classes"]), splits, damaged, content), meta["watched"]
    except Exception:  # a damaged archive fails in as many ways as it has parts
        return None


def _load_split(arrays: np.lib.npyio.NpzFile, split: Split, folders: list[str]) -> SplitIndex:
    parts = (arrays[f"{split}.{name}"] for name in ("at", "names", "labels", "sizes"))
    return SplitIndex(tuple(folders), *parts)


def _digest(classes: Sequence[str], splits: dict[Split, SplitIndex], parts: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for split in SPLITS:
        for array in (getattr(splits[split], part) for part in parts):
            digest.update(f"{split} {array.dtype.str} {len(array)} ".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


_FORMAT = 1  # of the kept index; another number makes all of them anew
_SETTLED = 2.0  # seconds: a folder changed more lately may change again within one tick of its time
_AT_ONCE = 10_000  # images whose decoding is waited for; a million waiting ones take gigabytes
LayoutOf = Callable[[Path, Sequence[str]], DatasetLayout]


def open_index(source: DatasetConfig, layout_of: LayoutOf) -> Index:
    """Return the index of a dataset's folder: the kept one where it still holds, else a new one.

    It is kept in `<cache>/index`, outside of the dataset. It holds as long as no folder that it
    was made from has another modification time, which any file added, removed or renamed gives
    its folder. A file that is overwritten in place goes unnoticed, and so does whatever sets
    the times back; delete the cache after that.

    Args:
        source: What is asked for.
        layout_of: Reads the dataset's layout from its folder, given a class list.

    Raises:
        UsageError: The tree is not as it must be.
    """
    root, path = source.folder(), _kept_at(source)
    kept = load_index(path)
    if kept is not None and _times(root, kept[1]) == kept[1]:
        return kept[0]
    begin = time.time()
    layout = layout_of(root, source.class_list)
    places = [place.folder for part in layout.places.values() for place in part]
    times = _times(root, (*layout.read_from, *places))
    index = _scan(root, layout, check=source.skip_corrupt)
    if max(times.values()) < (begin - _SETTLED) * 1e9:
        save_index(path, index, times)
    return index


def _kept_at(source: DatasetConfig) -> Path:
    asked = replace(source, image_size=0, download=False, progress=False)
    key = short_hash([_FORMAT, *(str(value) for value in vars(asked).values())])
    return default_cache_dir() / "index" / f"{key}.npz"


def _times(root: Path, names: Sequence[str] | dict[str, int]) -> dict[str, int]:
    """Return when folders and files were changed last, in ns; 0 for those that are gone."""
    return {name: _time(root / name) for name in names}


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _scan(root: Path, layout: DatasetLayout, *, check: bool) -> Index:
    splits: dict[Split, SplitIndex] = {}
    damaged: list[str] = []
    for split in SPLITS:
        places = layout.places[split]
        part = index_dirs(root, places, list_image_dirs(root, places))
        bad = _damaged(root, part) if check else []
        damaged += [str(path.relative_to(root)) for path in part.paths(root, bad)]
        splits[split] = part.without(bad)
    return make_index(layout.classes, splits, damaged)


def _damaged(root: Path, part: SplitIndex) -> list[int]:
    """Return the places of images that cannot be decoded, by decoding all."""

    def fails(place: int) -> bool:
        try:
            read_image(part.paths(root, [place])[0], 8)
        except CorruptImageError:
            return True
        return False

    count = len(part.names)
    title = f"decoding {count} images once to find damaged ones"
    bad: list[int] = []
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as threads,
        tqdm(desc=title, total=count, mininterval=2, leave=False) as bar,
    ):
        for start in range(0, count, _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, count))
            bad += [
                p for p, failed in zip(places, threads.map(fails, places), strict=True) if failed
            ]
            bar.update(len(places))
    return bad
