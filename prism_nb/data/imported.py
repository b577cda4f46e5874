"""Distilled sets made elsewhere: files of a folder or zip archive, as images of a method."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from prism_nb.core.errors import UsageError, first_difference, suggest
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.image_io import DECODE_ERRORS, read_exact
from prism_nb.data.index import is_image_name, is_litter

CLASSES_FILE = "classes.json"
MAX_FILE_BYTES = 64 * 2**20  # of one image; 224 px take a tenth of a megabyte
# How zipfile fails on damaged or encrypted archives; names that are no text are a ValueError.
_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
# Class folder and stem of numbered images: the index of the class, and the image's number.
_NUMBERED = {
    "published (new000/class000_id000.jpg)": re.compile(r"new(\d{3,})/class\1_id(\d{3,})"),
    "the kit's own (00000/00000_0000.png)": re.compile(r"(\d{5,})/\1_(\d{4,})"),
}
_NAMED = "folders named as the classes"
_Key = tuple[int, Any]  # class of an image, and what orders it within the class


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

        Raises:
            UsageError: An image cannot be used; see `read_exact`.
        """
        digest, pixels = hashlib.sha256(), []
        for class_index, image_index in keys:
            name = self.files[class_index][image_index]
            content = self.archive.read(name)
            digest.update(f"{name}\n{len(content)}\n".encode() + content)
            try:
                pixels.append(read_exact(io.BytesIO(content), self.size, resize=self.resize))
            except DECODE_ERRORS as error:
                raise UsageError(
                    f"{self.archive.path}: {name} cannot be read as PNG, JPEG or WebP: {error}; "
                    "replace it, or for another size set image_size to theirs, or `resize: true` "
                    "in the recipe (--resize) to fit all images"
                ) from None
        record = {
            "source": str(self.archive.path),
            "layout": self.layout,
            "source_sha256": digest.hexdigest(),
        }
        return torch.stack(pixels), record


def imported_set(settings: Settings, method: str, dataset: ImageDataset) -> ImportedSet:
    """Find the images of an imported method.

    Raises:
        UsageError: Images are missing, do not fit the classes, or are not `ipc` per class.
    """
    recipe = settings.recipe_of(method)
    archive = ImageArchive(Path(recipe.source or ""))
    layout, files = find_images(archive, dataset.classes)
    for info, names in zip(dataset.classes, files, strict=True):
        if len(names) != settings.ipc:
            raise UsageError(
                f"{archive.path} has {len(names)} images of class {info.index} "
                f"({info.folder!r}), but ipc is {settings.ipc}; every class needs as many, so set "
                "ipc to what the set has, or take some away from every class"
            )
    return ImportedSet(archive, layout, files, dataset.image_size, recipe.resize)


def infer_ipc(path: Path, dataset: ImageDataset) -> int:
    """Return how many images a set has of its first class; at least 1."""
    _, files = find_images(ImageArchive(path), dataset.classes)
    return max(1, len(files[0]))


class ImageArchive:
    """The files of a folder, links included, or of a zip archive, which is never unpacked.

    Attributes:
        path: The folder or archive.
        names: Relative names of all files, with forward slashes, sorted.

    Raises:
        UsageError: The path is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                # Of bounded depth, so that a link to a parent folder ends somewhere.
                found = chain.from_iterable(map(path.glob, ("*", "*/*", "*/*/*")))
                files = (file for file in found if file.is_file())
                self.names = sorted(file.relative_to(path).as_posix() for file in files)
            else:
                self._zip = zipfile.ZipFile(path)
                self.names = sorted({i.filename for i in self._zip.infolist() if not i.is_dir()})
        except _READ_ERRORS as error:
            raise UsageError(
                f"{path} cannot be read: {error}; name a folder of images, or a complete zip "
                "archive such as `prism-nb export` writes"
            ) from None

    def read(self, name: str) -> bytes:
        """Return a file's content; one that is damaged or larger than any image is refused."""
        file, packed = self.path / name, self._zip
        try:
            size = packed.getinfo(name).file_size if packed else file.stat().st_size
            if size > MAX_FILE_BYTES:  # zipfile never unpacks more than the stated size
                raise ValueError(f"it has {size / 1e6:.0f} MB, more than any image should")
            return packed.read(name) if packed else file.read_bytes()
        except _READ_ERRORS as error:
            raise UsageError(
                f"file {name} in {self.path} cannot be read: {error}; fetch the set again"
            ) from None


def find_images(archive: ImageArchive, classes: Sequence[ClassInfo]) -> tuple[str, list[list[str]]]:
    """Find every class's images: `<class>/<image>`, at any depth, but all at the same place.

    Class folders are named as the dataset's, or classes and images are numbered. Numbered images
    are ordered by number, others by name. Other files are ignored.

    Returns:
        Name of the layout, and the files of each class's images; a class may have none.

    Raises:
        UsageError: There is no image, or one that is not in a class folder, or the classes are
            others.
    """
    for name in archive.names:
        if PurePosixPath(name).name == CLASSES_FILE:
            _check_class_order(archive, name, classes)
    paths = _image_paths(archive)
    by_name = {info.folder: info.index for info in classes}
    layout, keys = _numbers(paths) or (_NAMED, _names(archive, paths, by_name))
    files: list[list[str]] = [[] for _ in classes]
    for name, (index, _) in sorted(keys.items(), key=lambda item: item[1]):
        if index >= len(classes) or by_name.get(paths[name].parent.name, index) != index:
            raise UsageError(
                f"{archive.path}: {name} is numbered as class {index}, which is not a class of the "
                f"dataset or has another folder; number the {len(classes)} classes from 0 in the "
                "dataset's class order"
            )
        files[index].append(name)
    return layout, files


def _check_class_order(archive: ImageArchive, name: str, classes: Sequence[ClassInfo]) -> None:
    """Compare the class order in a file of the set with the dataset's."""
    try:
        stated = list(json.loads(archive.read(name)))
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{archive.path}: {name} is damaged: {error}") from None
    found = first_difference([vars(info) for info in classes], stated)
    if found is not None:
        index, ours, theirs = found
        raise UsageError(
            f"{archive.path}: the classes differ at index {index}: {name} has {theirs}, "
            f"the dataset {ours}; import it into a run of the dataset that it was made from"
        )


def _image_paths(archive: ImageArchive) -> dict[str, PurePosixPath]:
    """Return the paths of all images by name; their class folders must lie in one folder."""
    paths = {name: PurePosixPath(name) for name in archive.names if is_image_name(name)}
    paths = {name: path for name, path in paths.items() if not is_litter(path.name)}
    if not paths:
        raise UsageError(f"{archive.path} holds no images; name the folder or archive of a set")
    examples = {path.parent.parent: name for name, path in paths.items()}
    if len(examples) > 1:
        raise UsageError(
            f"{archive.path} holds class folders at several places, e.g. of "
            f"{' and '.join(sorted(examples.values())[:2])}; name the folder of one set"
        )
    return paths


def _numbers(paths: Mapping[str, PurePosixPath]) -> tuple[str, dict[str, _Key]] | None:
    """Return the layout of numbered images, and the class and number of each; None: another."""
    for layout, pattern in _NUMBERED.items():
        matches = {n: pattern.fullmatch(f"{p.parent.name}/{p.stem}") for n, p in paths.items()}
        keys: dict[str, _Key] = {n: (int(m[1]), int(m[2])) for n, m in matches.items() if m}
        if len(keys) == len(paths):
            return layout, keys
    return None


def _is_numbered(path: PurePosixPath) -> bool:
    return any(p.fullmatch(f"{path.parent.name}/{path.stem}") for p in _NUMBERED.values())


def _names(
    archive: ImageArchive, paths: Mapping[str, PurePosixPath], by_name: Mapping[str, int]
) -> dict[str, _Key]:
    """Return the class and stem of images in folders that are named as the classes."""
    unknown = [path for path in paths.values() if path.parent.name not in by_name]
    if unknown:
        odd = min(unknown, key=_is_numbered)  # where a single one is not numbered, that one
        raise UsageError(
            f"{archive.path}: the folder of {odd} is no class of the dataset; name all folders "
            "as the classes, or all images as new000/class000_id000.png, ...; "
            f"{suggest(odd.parent.name, by_name)}"
        )
    return {name: (by_name[path.parent.name], path.stem) for name, path in paths.items()}
