"""Distilled sets made elsewhere: image, parquet and tensor files, as images of a method."""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.image_archive import ImageArchive
from prism_nb.data.image_folder import HELD_OUT
from prism_nb.data.image_io import DECODE_ERRORS, read_exact
from prism_nb.data.index import imagenet_wnids, is_image_name
from prism_nb.data.index_list import IndexedSet, indexed_set, read_indices, split_by_class

CLASSES_FILE = "classes.json"
_NAMED, _NUMBERS = "folders named as the classes", "numbered folders"
_WNID = re.compile(r"(?<![a-z0-9])n\d{8}(?!\d)")
# Class folders such as 0, 00000, new000, class_0 and 000_tench.
_NUMBERED = re.compile(r"(?!n\d{8})(?:[a-z]+[ _=-]?)?(\d+)|(\d+)[ _.-].*", re.IGNORECASE)


@dataclass(frozen=True)
class ImportedSet:
    """Images made elsewhere."""

    archive: ImageArchive
    layout: str  # how the files are named
    files: Sequence[Sequence[str]]  # names of each class's images, in order
    size: int  # side of the images, in pixels
    resize: bool  # whether images of another size are fitted

    def images(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Any]]:
        """Read some images by class and index within the class.

        Returns:
            Pixels, uint8 [n, 3, S, S], and a record of their origin: the folder or archive, its
            layout, and the SHA-256 of the names and contents of the files, in order.
        """
        digest, pixels = hashlib.sha256(), []
        names = [self.files[class_index][image_index] for class_index, image_index in keys]
        for name, content in zip(names, self.archive.contents(names), strict=True):
            header = f"{name}\n{len(content)}\n".encode(errors="surrogateescape")
            digest.update(header + content)
            try:
                pixels.append(read_exact(io.BytesIO(content), self.size, resize=self.resize))
            except DECODE_ERRORS as error:
                problem = "no image" if isinstance(error, UnidentifiedImageError) else error
                raise UsageError(
                    f"{self.archive.path}: {name} cannot be read as PNG, JPEG or WebP: {problem}; "
                    "replace it (a pointer: `git lfs pull`); for another size, set image_size or "
                    "`resize: true` in the recipe (--resize)"
                ) from None
        record = {
            "source": str(self.archive.path),
            "layout": self.archive.note + self.layout,
            "source_sha256": digest.hexdigest(),
        }
        return torch.stack(pixels), record


def imported_set(
    settings: Settings, method: str, dataset: ImageDataset
) -> ImportedSet | IndexedSet:
    """Find the images of an imported method."""
    recipe = settings.recipe_of(method)
    if recipe.indices:
        return indexed_set(settings, method, dataset)
    archive = open_archive(Path(recipe.source or ""), dataset)
    layout, files = find_images(archive, dataset.classes)
    for info, names in zip(dataset.classes, files, strict=True):
        if len(names) != settings.ipc:
            raise UsageError(
                f"{archive.path} has {len(names)} images of class {info.index} ({info.folder!r}), "
                f"but ipc is {settings.ipc}; every class needs as many"
            )
    return ImportedSet(archive, layout, files, dataset.image_size, recipe.resize)


def infer_ipc(path: Path, dataset: ImageDataset, *, indices: bool = False) -> int:
    """Return how many images a set, or a list of indices, has of its first class."""
    if indices:
        return len(split_by_class(path, read_indices(path), dataset)[0])
    return len(find_images(open_archive(path, dataset), dataset.classes)[1][0])


def open_archive(path: Path, dataset: ImageDataset) -> ImageArchive:
    """Open a folder or archive of image files, or parquet or tensor files.

    A folder is of parquet or tensor files where it holds no images.
    """
    from prism_nb.data.parquet import PARQUET, ParquetSet
    from prism_nb.data.tensor_file import TENSORS, TensorSet

    names, ends = list[str](), {path.suffix.lower()}
    if path.is_dir() or not ends & {PARQUET, *TENSORS}:
        archive = ImageArchive(path)
        names = archive.names
        ends = {Path(name).suffix.lower() for name in names} if path.is_dir() else set()
        if any(map(is_image_name, names)) or not ends & {PARQUET, *TENSORS}:
            return archive
    return ParquetSet(path, names) if PARQUET in ends else TensorSet(path, dataset, names)


def find_images(archive: ImageArchive, classes: Sequence[ClassInfo]) -> tuple[str, list[list[str]]]:
    """Find every class's images: `<class>/<image>`, at any depth, but all at the same place.

    Class folders are named or numbered as the dataset's classes; those of other classes are left
    out where they are named. Images of numbered folders are ordered by the numbers in their names,
    others by name. Other files are ignored.

    Returns:
        How the folders were read and what was left out, and the files of each class's images.
    """
    images = _images(archive)
    layout, index_of = _class_folders(archive, images, classes)
    files: list[list[str]] = [[] for _ in classes]
    for name in sorted(images, key=lambda name: _order(images[name].stem, layout)):
        if (folder := images[name].folder) in index_of:
            files[index_of[folder]].append(name)
    other = sorted({image.folder for image in images.values()} - index_of.keys())
    for info in classes:
        if not files[info.index]:
            raise UsageError(
                f"{archive.path} has no images of class {info.index} ({info.folder!r}); every "
                f"class of the run needs some: {suggest(info.folder, other)}"
            )
    if other:
        layout += f"; other folders left out: {len(other)}, e.g. {other[0]!r}"
    return layout, files


class _Image(NamedTuple):
    place: str  # path of the folder of the class folders
    folder: str  # name of the class folder
    stem: str

    @classmethod
    def parse(cls, name: str) -> _Image:
        """Take a file's name apart."""
        parts = name.replace("\\", "/").split("/")  # in archives of Windows
        *parents, file = (part for part in parts if part != ".")
        if len(parents) > 1 and parents[-1] == "images":  # in each class folder of Tiny-ImageNet
            parents.pop()
        return cls("/".join(parents[:-1]), "".join(parents[-1:]), file.rpartition(".")[0])


def _order(stem: str, layout: str) -> list[Any]:
    """Return what orders an image within its class."""
    if layout == _NAMED:
        return [stem]
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", stem))]


def _images(archive: ImageArchive) -> dict[str, _Image]:
    """Return a set's images by the names of their files; all class folders lie in one folder."""
    images = {name: _Image.parse(name) for name in archive.names if is_image_name(name)}
    if not images:
        raise UsageError(
            f"{archive.path} holds no images (PNG, JPEG or WebP); name the folder or archive of a "
            "set, and unpack archives in it"
        )
    places = {image.place for image in images.values()}
    places = {place for place in places if place.split("/")[-1] not in HELD_OUT} or places
    # Pictures beside the class folders show the set, and are no part of it.
    inside = {
        name: image
        for name, image in images.items()
        if image.place in places and f"{image.place}/{image.folder}".lstrip("/") not in places
    }
    examples = {image.place: name for name, image in inside.items()}
    if len(examples) != 1:
        where = "at several places" if examples else "nowhere"
        names = sorted(examples.values()) or sorted(images)
        raise UsageError(
            f"{archive.path} holds class folders {where}, e.g. of {' and '.join(names[:2])}; name "
            "the folder of one set, in which each class has a folder of its own"
        )
    return inside


def _class_folders(
    archive: ImageArchive, images: Mapping[str, _Image], classes: Sequence[ClassInfo]
) -> tuple[str, dict[str, int]]:
    """Return how class folders are read, and the class index of each that is one of the run's."""
    by_name, stated = _by_name(classes), _stated_order(archive)
    folders = sorted({image.folder for image in images.values()})
    named = {f: by_name[text] for f in folders for text in _spellings(f) if text in by_name}
    numbers = {f: int(m[1] or m[2]) for f in folders if (m := _NUMBERED.fullmatch(f))}
    are_all_named = len(set(named.values())) == len(classes)
    if len(numbers) == len(folders) and (stated or not are_all_named):
        order = stated or _order_of_numbers(numbers, classes)
        index_of = {
            f: by_name.get(name, by_name.get(_plain(name)))
            for f, n in numbers.items()
            for name in order[n : n + 1]
        }
        for name, image in images.items():
            folder, number = image.folder, numbers[image.folder]
            is_other = not stated and folder in named and named[folder] != index_of.get(folder)
            if folder not in index_of or is_other:
                raise UsageError(
                    f"{archive.path}: {name} is numbered as class {number}, which is not a class "
                    f"of the dataset or has another folder; number the {len(order)} classes in its "
                    f"order, or list their folders in the set's order in a file {CLASSES_FILE}"
                )
        layout = f"numbered folders, in the order of {CLASSES_FILE}" if stated else _NUMBERS
        return layout, {folder: i for folder, i in index_of.items() if i is not None}
    if not are_all_named and len(named) <= len(numbers):
        odd = next(name for name, image in images.items() if image.folder not in numbers)
        raise UsageError(
            f"{archive.path}: the folder of {odd} is no class of the dataset; name all folders "
            "as the classes, or number all from 0; "
            + suggest(images[odd].folder, (info.folder for info in classes))
        )
    return _NAMED, named


def _by_name(classes: Sequence[ClassInfo]) -> dict[str, int]:
    """Return the index of each class by its folder name, and by other names that only it has."""
    known: dict[str, set[int]] = {}
    for info in classes:
        for name in (info.folder, info.name, *info.name.split(",")):
            known.setdefault(_plain(name), set()).add(info.index)
    known.pop("", None)
    unique = {name: min(found) for name, found in known.items() if len(found) == 1}
    return unique | {info.folder: info.index for info in classes}


def _spellings(folder: str) -> Iterator[str]:
    """Yield the names that a class folder may stand for, its own last."""
    yield _plain(folder.rstrip("0123456789"))  # tench_000
    yield _plain(folder.lstrip("0123456789"))  # 000_tench
    yield _plain(folder)
    yield from _WNID.findall(folder)  # n01440764_tench
    yield folder


def _plain(name: str) -> str:
    """Return a name in lower case, with single spaces for all that is no letter or digit."""
    composed = unicodedata.normalize("NFC", name)  # macOS writes accents apart from their letters
    return re.sub(r"[\W_]+", " ", composed.casefold()).strip()


def _stated_order(archive: ImageArchive) -> list[str] | None:
    """Return the class folders in the order of the set's numbers, where a file lists them."""
    found = [name for name in archive.names if name.split("/")[-1] == CLASSES_FILE]
    if not found:
        return None
    name = min(found, key=len)
    try:
        listed = json.loads(archive.read(name))
        if isinstance(listed, dict) and all(isinstance(i, int) for i in listed.values()):
            # torchvision's class_to_idx
            listed = sorted(listed, key=listed.__getitem__)
        if not isinstance(listed, list):
            raise TypeError("it holds no list")
        return [each if isinstance(each, str) else str(each["folder"]) for each in listed]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(
            f"{archive.path}: {name} is damaged: {error}; it lists the names of the class folders "
            "in the order of the set's numbers"
        ) from None


def _order_of_numbers(numbers: Mapping[str, int], classes: Sequence[ClassInfo]) -> list[str]:
    """Return the class folders that numbers stand for: ImageNet-1K's where there are 1,000."""
    folders = [info.folder for info in classes]
    if len(set(numbers.values())) == 1000 > len(folders):
        wnids = imagenet_wnids()
        if set(folders) <= set(wnids):
            return list(wnids)
    return folders
