"""Distilled sets made elsewhere: files of a folder or zip archive, as images of a method."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from prism_nb.core.errors import UsageError, first_difference, suggest
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.image_io import DECODE_ERRORS, to_rgb
from prism_nb.data.index import is_image_name

CLASSES_FILE = "classes.json"
MAX_FILE_BYTES = 64 * 2**20  # of one image; 224 px take a tenth of a megabyte
MAX_PIXELS = 2**24  # of one image; more is a decompression bomb
_MAX_DEPTH = 4  # of folders, so that a link to a parent folder ends somewhere
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "CMYK"}  # of at most 8 bits per channel
# Files next to the class folders that describe the images, and what desktops leave behind.
_DESCRIPTIONS = {CLASSES_FILE, "metadata.jsonl", "README.md", "card.md", ".gitattributes"}
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
# How zipfile fails on damaged or encrypted archives; names that are no text are a ValueError.
_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class ImportedSet:
    """Images made elsewhere.

    Attributes:
        archive: The folder or archive that holds them.
        layout: How their files are named, for the record.
        files: Names of each class's images, in order.
        size: Side of the images, in pixels.
        resize: Whether images of another size are fitted.
    """

    archive: ImageArchive
    layout: str
    files: tuple[tuple[str, ...], ...]
    size: int
    resize: bool

    def images(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Any]]:
        """Read some images by class and index within the class.

        Returns:
            Pixels, uint8 [n, 3, S, S], and a record of their origin: the folder or archive, its
            layout, and the SHA-256 of the names and contents of the files, in order.

        Raises:
            UsageError: An image cannot be used; see `decode_image`.
        """
        digest, pixels = hashlib.sha256(), []
        for class_index, image_index in keys:
            name = self.files[class_index][image_index]
            content = self.archive.read(name)
            digest.update(f"{name}\n{len(content)}\n".encode())
            digest.update(content)
            where = f"{self.archive.path}: {name}"
            pixels.append(decode_image(content, name=where, size=self.size, resize=self.resize))
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
    """The files of a folder or a zip archive, which is read in place and never unpacked.

    Links in a folder are followed.

    Attributes:
        path: The folder or archive.
        names: Relative names of all files, with forward slashes, sorted.

    Raises:
        UsageError: The path is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if not path.exists():
            raise UsageError(f"no folder or archive at {path}; name the one that holds the images")
        try:
            if path.is_dir():
                self.names = sorted(_walk(path))
            else:
                self._zip = zipfile.ZipFile(path)
                self.names = sorted(i.filename for i in self._zip.infolist() if not i.is_dir())
        except _READ_ERRORS as error:
            raise UsageError(
                f"{path} cannot be read: {error}; name a folder of images, or a complete zip "
                "archive such as `prism-nb export` writes"
            ) from None
        doubled = next((a for a, b in pairwise(self.names) if a == b), None)
        if doubled is not None:
            raise UsageError(f"{path} holds {doubled} twice; take one of the two away")

    def read(self, name: str) -> bytes:
        """Return a file's content; one that is damaged or larger than any image is refused."""
        file, packed = self.path / name, self._zip
        try:
            size = packed.getinfo(name).file_size if packed else file.stat().st_size
            if size <= MAX_FILE_BYTES:  # zipfile never unpacks more than the stated size
                return packed.read(name) if packed else file.read_bytes()
        except _READ_ERRORS as error:
            raise UsageError(
                f"file {name} in {self.path} cannot be read: {error}; fetch the set again"
            ) from None
        raise UsageError(
            f"file {name} in {self.path} is {size / 1e6:.0f} MB; images of a distilled set have at "
            f"most {MAX_FILE_BYTES / 1e6:.0f} MB, so take it away"
        )


def _walk(root: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise error

    names: list[str] = []
    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=True):
        relative = Path(folder).relative_to(root)
        if len(relative.parts) >= _MAX_DEPTH:
            subfolders.clear()
        names += [(relative / name).as_posix() for name in files]
    return names


# -- naming schemes --------------------------------------------------------------------------


@dataclass(frozen=True)
class NamingScheme:
    """Numbered class folders and images.

    Attributes:
        name: Name of the scheme.
        folder: Pattern of a class folder; its group is the class index.
        file: Pattern of an image's stem; its groups are the class index and the image's number.
    """

    name: str
    folder: re.Pattern[str]
    file: re.Pattern[str]


_SCHEMES = (
    NamingScheme(
        "published (new000/class000_id000.jpg)",
        re.compile(r"new(\d{3,})"),
        re.compile(r"class(\d{3,})_id(\d{3,})"),
    ),
    NamingScheme(
        "the kit's own (00000/00000_0000.png)",
        re.compile(r"(\d{5,})"),
        re.compile(r"(\d{5,})_(\d{4,})"),
    ),
)
_CLASS_FOLDERS = "folders named as the classes"


def find_images(
    archive: ImageArchive, classes: Sequence[ClassInfo]
) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Find every class's images.

    Class folders may lie at the top, in `images/`, or in one folder around everything. They are
    named as the dataset's, or numbered by a `NamingScheme`. Numbered images are ordered by number,
    others by name.

    Returns:
        Name of the layout, and the files of each class's images; a class may have none.

    Raises:
        UsageError: A file is no image or is not in a class folder, or the classes are others.
    """
    names = [name for name in archive.names if not _is_litter(PurePosixPath(name))]
    for name in names:
        if PurePosixPath(name).name == CLASSES_FILE:
            _check_class_order(archive, name, classes)
    prefix, images = _split_prefix(archive, names)
    folders = sorted({name.split("/")[0] for name in images})
    scheme, index_of = _match_folders(archive, folders, classes)
    found: list[dict[int | str, str]] = [{} for _ in classes]
    for name in images:
        folder, _, file = name.partition("/")
        key = _order_key(archive, scheme, name, PurePosixPath(file).stem, index_of[folder])
        others = found[index_of[folder]]
        if key in others:
            raise UsageError(
                f"{archive.path}: {others[key]} and {prefix}{name} are both image {key!r} of one "
                "class; take one of them away"
            )
        others[key] = prefix + name
    files = tuple(tuple(name for _, name in sorted(group.items())) for group in found)
    return scheme.name if scheme else _CLASS_FOLDERS, files


def _is_litter(path: PurePosixPath) -> bool:
    return path.name in _LITTER or path.name.startswith("._") or "__MACOSX" in path.parts


def _split_prefix(archive: ImageArchive, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder around the class folders, and the images within it: `folder/file`."""
    images = [name for name in names if PurePosixPath(name).name not in _DESCRIPTIONS]
    tops = {name.split("/")[0] for name in images}
    if "images" in tops:
        prefix = "images/"
    elif len(tops) == 1 and all(name.count("/") > 1 for name in images):
        prefix = f"{tops.pop()}/"
    else:
        prefix = ""
    images = [name.removeprefix(prefix) for name in images if name.startswith(prefix)]
    if not images:
        raise UsageError(f"{archive.path} holds no images; name the folder of the class folders")
    for name in images:
        if not is_image_name(name):
            raise UsageError(
                f"{archive.path}: {prefix}{name} is no image; take away everything but PNG, JPEG "
                "and WebP in class folders"
            )
        if name.count("/") != 1:
            raise UsageError(
                f"{archive.path}: {prefix}{name} does not lie in a class folder; name the folder "
                "that holds the class folders, and nothing else"
            )
    return prefix, images


def _check_class_order(archive: ImageArchive, name: str, classes: Sequence[ClassInfo]) -> None:
    """Compare the class order in a file of the set with the dataset's."""
    try:
        stated = json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{archive.path}: {name} is damaged: {error}") from None
    if not isinstance(stated, list):
        raise UsageError(f"{archive.path}: {name} is damaged: it must hold a list")
    found = first_difference([vars(info) for info in classes], stated)
    if found is not None:
        index, ours, theirs = found
        raise UsageError(
            f"{archive.path}: the classes differ at index {index}: {name} has {theirs}, "
            f"the dataset {ours}; import it into a run of the dataset that it was made from"
        )


def _match_folders(
    archive: ImageArchive, folders: Sequence[str], classes: Sequence[ClassInfo]
) -> tuple[NamingScheme | None, dict[str, int]]:
    """Return the scheme of class folders, None where they are named, and the class of each."""
    by_name = {info.folder: info.index for info in classes}
    named = all(folder in by_name for folder in folders)
    for scheme in _SCHEMES:
        matches = [scheme.folder.fullmatch(folder) for folder in folders]
        numbers = {match[0]: int(match[1]) for match in matches if match}
        if len(numbers) < len(folders):
            continue
        for folder, number in numbers.items():
            if named and number != by_name[folder]:
                raise UsageError(
                    f"{archive.path}: folder {folder!r} is class {by_name[folder]} by its name and "
                    f"{number} by its number; rename the folders as new000, new001, ..., in class "
                    "order"
                )
            if number >= len(classes):
                raise UsageError(
                    f"{archive.path}: folder {folder!r} is none of the {len(classes)} classes, "
                    "which are numbered from 0 in the dataset's class order"
                )
        return (None, by_name) if named else (scheme, numbers)
    unknown = [folder for folder in folders if folder not in by_name]
    if unknown:
        raise UsageError(
            f"{archive.path}: folder {unknown[0]!r} is no class of the dataset; name all folders "
            "as the classes, or number all as new000, new001, ...; "
            f"{suggest(unknown[0], by_name)}"
        )
    return None, by_name


def _order_key(
    archive: ImageArchive, scheme: NamingScheme | None, name: str, stem: str, index: int
) -> int | str:
    """Return what orders an image within its class: its number, or its file's name."""
    if scheme is None:
        return stem
    match = scheme.file.fullmatch(stem)
    if match is not None and int(match[1]) == index:
        return int(match[2])
    raise UsageError(
        f"{archive.path}: {name} is not named as an image of its class in the layout "
        f"{scheme.name}; rename it"
    )


# -- pixels ----------------------------------------------------------------------------------


def decode_image(content: bytes, *, name: str, size: int, resize: bool) -> Tensor:
    """Decode an image whose pixels must not depend on choices: no alpha, depth or animation.

    Args:
        content: The file's bytes.
        name: Name of the image in messages.
        size: Required side, in pixels.
        resize: Whether one of another size is scaled (bicubic) to cover the square, and cropped
            at its centre; otherwise it is refused.

    Returns:
        Pixels, uint8 RGB [3, size, size].

    Raises:
        UsageError: The image is damaged, too large, of another size, partly transparent, animated,
            of more than 8 bits per channel, or no PNG, JPEG or WebP.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_format(image, name, None if resize else size)
            rgb = to_rgb(image)
    except DECODE_ERRORS as error:
        raise UsageError(
            f"{name} cannot be read as PNG, JPEG or WebP: {error}; fetch it again or take it away"
        ) from None
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _check_format(image: Image.Image, name: str, size: int | None) -> None:
    """Refuse an image of another kind, or of another side than `size`."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"{name} is a decompression bomb of {width} x {height} pixels; do not trust it"
        )
    if size is not None and image.size != (size, size):
        raise UsageError(
            f"{name} is {width} x {height} pixels, but image_size is {size}; set image_size to "
            "theirs, or `resize: true` in the recipe (--resize) to fit them"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise UsageError(f"{name} is animated; store one image per file")
    if image.mode not in _MODES:
        raise UsageError(f"{name} has pixels of mode {image.mode}; store it with 8 bits each")
    if image.has_transparency_data:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        if lowest != 255:
            raise UsageError(
                f"{name} is partly transparent, so its colours depend on the background; store it "
                "without transparency"
            )
