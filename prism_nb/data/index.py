"""The index of an image tree: which files there are, of which class, in which order."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prism_nb import files
from prism_nb.data.base import Split
from prism_nb.data.scan import Found, Place
from prism_nb.errors import UsageError

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

    @property
    def names(self) -> str:
        """Digest of the classes and of every file's name and class, whatever the files hold."""
        return _digest(self.classes, self.splits, ("names", "labels"))


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


def index_places(root: Path, places: Sequence[Place], found: Sequence[Found]) -> SplitIndex:
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


def _require_listed(root: Path, place: Place, listed: Found) -> None:
    if isinstance(place.label, int):
        return
    there = {name for name, _ in listed.images}
    gone = [name for name, label in place.label.items() if label >= 0 and name not in there]
    if gone:
        raise UsageError(
            f"{len(gone)} images that the list of classes names are not in {root / place.folder}, "
            f"e.g. {gone[0]}; unpack them again, or shorten the list"
        )


def save_index(path: Path, index: Index, watched: dict[str, int]) -> None:
    """Keep an index with the times of the folders that it was made from."""
    meta = {
        "classes": index.classes,
        "damaged": index.damaged,
        "content": index.content,
        "watched": watched,
        "folders": {split: part.folders for split, part in index.splits.items()},
    }
    arrays = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
    for split, part in index.splits.items():
        for name in ("at", "names", "labels", "sizes"):
            arrays[f"{split}.{name}"] = getattr(part, name)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    files.write_bytes(path, content.getvalue())


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
