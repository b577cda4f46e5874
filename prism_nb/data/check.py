"""A check of a folder of images before work: balance, duplicates, leakage, sizes, damaged files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.device import usable_cores
from prism_nb.core.errors import UsageError
from prism_nb.core.paths import default_cache_dir
from prism_nb.core.yaml_io import StrictModel
from prism_nb.data.dataset import SPLITS, DatasetConfig
from prism_nb.data.image_folder import folder_layout
from prism_nb.data.image_io import DECODE_ERRORS, DamagedImageError, decode_error, to_rgb, upright
from prism_nb.data.index import Index, open_index

_SIDE = 8  # of the thumbnails that are compared
_EQUAL = 0.04  # difference of two hashes up to which images are equal, see `find_copies`
_PLAIN = 8.0  # standard deviation below which an image is nearly plain, in grey levels
_DRAFT = 64  # JPEG files are decoded at the least eighth of their size that is no smaller
_CHUNK = 512  # files between two updates of the progress bar; thumbnails compared with all others
_FEW = 20  # training images below which a class is small
_IMBALANCE = 3.0  # largest class over the smallest
_IPC_SHARE = 0.1  # of the smallest class's training images
_MOST_IPC = 50  # of the common benchmarks
_IMAGE_SIZES = (224, 128, 64, 32)
_LISTED = 10  # files that a sentence names
_MOST_ROWS = 20  # of a table of classes


class ClassCount(StrictModel):
    """Numbers of a class's images."""

    name: str
    train: int
    held_out: int


class Copies(StrictModel):
    """Files with (nearly) the same image, and the splits and classes that they are in."""

    files: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


class DataCheck(StrictModel):
    """What was found in a folder of images."""

    classes: tuple[ClassCount, ...]  # numbers of images, in class order
    damaged: tuple[str, ...]  # files that cannot be decoded, relative to the folder
    copies: tuple[Copies, ...]  # copies by perceptual hash
    sides: tuple[int, int, int]  # least, median and greatest shorter side, in pixels

    @property
    def leaks(self) -> list[Copies]:
        """The copies in both splits."""
        return [each for each in self.copies if len(each.splits) > 1]

    @property
    def conflicts(self) -> list[Copies]:
        """The copies in several classes."""
        return [each for each in self.copies if len(each.classes) > 1]

    @property
    def duplicates(self) -> list[Copies]:
        """The copies within one split and class."""
        return [each for each in self.copies if len(each.splits) == len(each.classes) == 1]

    @property
    def smallest(self) -> int:
        """Training images of the smallest class."""
        return min(each.train for each in self.classes)

    def class_rows(self) -> list[dict[str, Any]]:
        """Return the rows of a table of the classes, of the smallest ones where they are many."""
        by_size = sorted(self.classes, key=lambda each: each.train)[:_MOST_ROWS]
        shown = self.classes if len(self.classes) <= _MOST_ROWS else by_size
        return [{"class": c.name, "training": c.train, "held out": c.held_out} for c in shown]

    @property
    def ipc(self) -> int:
        """Advised images per class: at most a tenth of the smallest class, and at most 50."""
        return max(1, min(_MOST_IPC, int(self.smallest * _IPC_SHARE)))

    @property
    def image_size(self) -> int:
        """Advised side of the images: the largest common one that half of them have."""
        return next((s for s in _IMAGE_SIZES if s <= self.sides[1]), _IMAGE_SIZES[-1])

    @property
    def has_faults(self) -> bool:
        """Whether results would be wrong or work would stop."""
        return bool(self.damaged or self.leaks or self.conflicts)

    def sentences(self) -> Iterator[str]:
        """Yield what was found, the worst first, then advice."""
        train, held_out = (sum(getattr(c, n) for c in self.classes) for n in ("train", "held_out"))
        least, median, most = self.sides
        yield (
            f"{len(self.classes)} classes, {train:,} training and {held_out:,} held-out images, "
            f"shorter sides of {least} to {most} pixels (median {median})"
        )
        for found, what in (
            (self.leaks, "leakage: both trained on and held out; remove each from one of the two"),
            (self.conflicts, "wrong classes: in several classes; keep each in one"),
            (self.damaged, "damaged: cannot be decoded; repair or remove, or set skip_damaged"),
            (self.duplicates, "duplicates: more than once in a class and split"),
        ):
            if found:
                yield f"{what} ({len(found)}): {_listed(found)}"
        few = [f"{each.name} ({each.train})" for each in self.classes if each.train < _FEW]
        if few:
            yield f"small classes, of fewer than {_FEW} training images: {_listed(few)}"
        ratio = max(each.train for each in self.classes) / self.smallest
        if ratio > _IMBALANCE:
            yield f"imbalance: the largest class has {ratio:.1f} times as many as the smallest"
        yield (
            f"advice: ipc={self.ipc} or less, since the smallest class has {self.smallest} "
            f"training images, and image_size={self.image_size}"
        )


def check_folder(config: DatasetConfig) -> DataCheck:
    """Decode every image of a dataset in the layout of `folder` once, and report on them.

    The result is cached until a file changes.
    """
    root = config.folder()
    index = open_index(config, folder_layout)
    if len(index.classes) < 2:
        raise UsageError(
            f"{root} has one class, {index.classes[0]!r}, but a network needs two to tell apart; "
            "put the images of each class into a folder of its own"
        )
    paths = [
        p for s in SPLITS for p in index.splits[s].paths(root, range(len(index.splits[s].files)))
    ]
    states = [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, paths)]
    key = short_hash([str(root), index.content_hash(), states])
    cache = default_cache_dir() / "checks" / f"{key}.json"
    with suppress(UsageError):
        return DataCheck.parse(fileio.read_record(cache), where=str(cache))
    found = _check(root, index, paths, progress=config.progress)
    fileio.write_json(cache, found.plain())
    return found


def _check(root: Path, index: Index, paths: Sequence[Path], *, progress: bool) -> DataCheck:
    decoded = list(_thumbnails(paths, progress=progress))
    whole = [i for i, each in enumerate(decoded) if each is not None]
    if not whole:
        raise UsageError(f"no file in {root} is an image that can be decoded, e.g. {paths[0]}")
    names = [str(path.relative_to(root)) for path in paths]
    splits = [split for split in SPLITS for _ in index.splits[split].labels]
    labels = np.concatenate([index.splits[split].labels for split in SPLITS])
    counts = [np.bincount(index.splits[s].labels, minlength=len(index.classes)) for s in SPLITS]
    sides = [each[1] for each in decoded if each is not None]
    groups = find_copies(np.stack([each[0] for each in decoded if each is not None]))
    return DataCheck(
        classes=tuple(
            ClassCount(name=name, train=int(train), held_out=int(val))
            for name, train, val in zip(index.classes, *counts, strict=True)
        ),
        damaged=tuple(name for name, each in zip(names, decoded, strict=True) if each is None),
        copies=tuple(
            Copies(
                files=tuple(names[i] for i in members),
                splits=tuple(sorted({splits[i] for i in members})),
                classes=tuple(sorted({index.classes[labels[i]] for i in members})),
            )
            for members in ([whole[i] for i in group] for group in groups)
        ),
        sides=(min(sides), int(np.median(sides)), max(sides)),
    )


def _thumbnails(
    paths: Sequence[Path], *, progress: bool
) -> Iterator[tuple[np.ndarray, int] | None]:
    """Yield the grey thumbnail and shorter side of each image; None for one that is damaged."""
    starts = range(0, len(paths), _CHUNK)
    bar = tqdm(total=len(paths), desc="checking images", unit="", disable=not progress, leave=False)
    with bar, ThreadPoolExecutor(usable_cores()) as threads:
        for start in starts:
            chunk = paths[start : start + _CHUNK]
            yield from threads.map(_thumbnail, chunk)
            bar.update(len(chunk))


def _thumbnail(path: Path) -> tuple[np.ndarray, int] | None:
    try:
        with Image.open(path) as image:
            side = min(image.size)
            image.draft("RGB", (_DRAFT, _DRAFT))
            grey = to_rgb(upright(image)).convert("L")
        return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)), side
    except DECODE_ERRORS as error:
        problem = decode_error(path, error)
        if isinstance(problem, DamagedImageError):
            return None
        raise problem from None


def find_copies(thumbnails: np.ndarray) -> list[list[int]]:
    """Return groups of indices of images that are equal up to compression, size and brightness.

    Their perceptual hash is the thumbnail with mean 0 and deviation 1 (of nearly plain images
    less); two are equal whose hashes differ by at most 0.04 in the root of the mean square.
    `thumbnails` are grey levels, uint8 [N, side, side].
    """
    from scipy.sparse import coo_array  # takes a quarter of a second to import
    from scipy.sparse.csgraph import connected_components

    flat = thumbnails.reshape(len(thumbnails), -1)
    levels, where = np.unique(flat, axis=0, return_inverse=True)
    centred = levels - levels.mean(axis=1, keepdims=True, dtype=np.float32)
    hashes = centred / np.maximum(centred.std(axis=1, keepdims=True), _PLAIN)
    hashes /= np.sqrt(hashes.shape[1])
    # Hashes that are apart on their principal axis need not be compared.
    place = hashes @ np.linalg.eigh(hashes.T @ hashes)[1][:, -1]
    order = np.argsort(place)
    hashes, place, squares = hashes[order], place[order], (hashes[order] ** 2).sum(axis=1)
    pairs = [np.empty((2, 0), np.int64)]
    for start in range(0, len(hashes), _CHUNK):
        end = start + _CHUNK
        stop = np.searchsorted(place, place[:end][-1] + _EQUAL, side="right")
        products = hashes[start:end] @ hashes[start:stop].T
        distances = squares[start:end, None] + squares[start:stop] - 2 * products
        pairs.append(order[np.stack(np.nonzero(distances <= _EQUAL**2)) + start])
    ends = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(len(levels), len(levels)))
    members = connected_components(graph, directed=False)[1][where.ravel()]
    by_member = np.argsort(members, kind="stable")
    groups = np.split(by_member, np.flatnonzero(np.diff(members[by_member])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def _listed(items: Sequence[str | Copies]) -> str:
    texts = [" = ".join(each.files) if isinstance(each, Copies) else each for each in items]
    rest = len(texts) - _LISTED
    return "; ".join(texts[:_LISTED]) + (f"; and {rest} more" if rest > 0 else "")
