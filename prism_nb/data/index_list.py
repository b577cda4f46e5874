"""Lists of training images made elsewhere: indices in a file, as images of a method."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from prism_nb.core.errors import UsageError
from prism_nb.core.settings import Settings
from prism_nb.core.torch_io import load_torch_file
from prism_nb.data.dataset import ImageDataset


@dataclass(frozen=True)
class IndexedSet:
    """Training images that a file lists."""

    path: Path
    digest: str  # of the list
    dataset: ImageDataset
    by_class: Sequence[Sequence[int]]  # indices of each class's images, in the order of the file

    def images(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Any]]:
        """Read some images by class and index within the class.

        Returns:
            Pixels, uint8 [n, 3, S, S], and a record of their origin: the file, the hash of its
            list, and the images' indices.
        """
        indices = [self.by_class[class_index][image_index] for class_index, image_index in keys]
        layout = f"{sum(map(len, self.by_class))} indices of training images"
        record = {"source": str(self.path), "layout": layout, "source_sha256": self.digest}
        return self.dataset.images("train", indices), {**record, "indices": indices}


def indexed_set(settings: Settings, method: str, dataset: ImageDataset) -> IndexedSet:
    """Find the training images of an imported method."""
    recipe = settings.recipe_of(method)
    path = Path(recipe.source or "")
    indices = read_indices(path)
    if hash_indices(indices) != recipe.indices:
        raise UsageError(
            f"{path} has changed since method {method} was imported; restore it, or import it "
            "under another name (--as)"
        )
    if settings.eval_split == "tuning":
        raise UsageError(f"{path} counts all training images; set eval_split to test")
    by_class = split_by_class(path, indices, dataset)
    counts = list(map(len, by_class))
    for info, count in zip(dataset.classes, counts, strict=True):
        if count != settings.ipc:
            raise UsageError(
                f"{path} lists {count} images of class {info.index} ({info.folder!r}), but ipc is "
                f"{settings.ipc}; all classes have {min(counts)} to {max(counts)}, unless it "
                "counts the images in another order"
            )
    return IndexedSet(path, hash_indices(indices), dataset, by_class)


def split_by_class(path: Path, indices: Sequence[int], dataset: ImageDataset) -> list[list[int]]:
    """Return the indices of each class's images, in the order of the list."""
    if not dataset.has_images:
        raise UsageError(f"{path} lists training images; name their folder by --set data_dir=PATH")
    labels, by_class = dataset.labels("train"), [list[int]() for _ in dataset.classes]
    ((index, times),) = Counter(indices).most_common(1)
    if times > 1:
        raise UsageError(f"{path} lists image {index} {times} times; keep one")
    for index in indices:
        if not 0 <= index < len(labels):
            raise UsageError(
                f"{path} lists image {index}, but {dataset.name} has {len(labels)} training "
                "images, counted from 0 in its own order"
            )
        by_class[int(labels[index])].append(index)
    return by_class


def hash_indices(indices: Sequence[int]) -> str:
    """Return the SHA-256 of a list, which does not depend on the kind of its file."""
    return hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()


def read_indices(path: Path) -> list[int]:
    """Read a list of integers: `.npy`, `.pt`, `.json`, or text with one on each line."""
    try:
        entries = _entries(path)
        if not isinstance(entries, list) or not entries:
            raise ValueError("it holds no list, or an empty one")
        odd = [entry for entry in entries if type(entry) is not int]  # True is an int as well
        if odd:
            raise ValueError(f"{odd[0]!r} is no integer")
    except Exception as error:  # torch's reader fails in many ways
        # torch's own message recommends to run the file's code.
        is_object = isinstance(error, pickle.UnpicklingError)
        reason = "it holds more than tensors" if is_object else error
        raise UsageError(
            f"{path} is no list of training images: {reason}; save integers as .npy, .pt, .json or "
            "lines of text"
        ) from None
    return entries


def _entries(path: Path) -> Any:
    kind = path.suffix.lower()
    if kind not in {".npy", ".pt", ".pth"}:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if kind == ".json" else list(map(int, text.split()))
    # A file that is mapped takes no more memory than its size, whatever its header says.
    found = np.load(path, mmap_mode="r") if kind == ".npy" else load_torch_file(path)
    return found.tolist() if isinstance(found, np.ndarray | Tensor) else found
