"""Where the files of an image set lie: a folder, or a zip archive that is never unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from prism_nb.core.errors import UsageError, first_difference, suggest
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ClassInfo, ImageDataset

MAX_FILE_BYTES = 64 * 2**20  # of one image file; 224 px take a tenth of a megabyte
MAX_FILES = 5_000_000
MAX_DEPTH = 4  # of folders; a set of images needs two
MAX_BYTES = 2**40  # that an archive may say it holds
MAX_RATIO = 200  # of bytes to packed bytes, beyond which an archive is a bomb
_RATIO_FROM = 2**20  # bytes; small files may pack well


class ImageArchive(ABC):
    """The files of an image set by name; names are relative, with forward slashes.

    Attributes:
        path: The folder or archive.
    """

    path: Path

    @abstractmethod
    def names(self) -> list[str]:
        """Return every file's name, sorted."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            UsageError: It cannot be read, is damaged, or is larger than an image can be.
        """


def open_archive(path: Path) -> ImageArchive:
    """Open a folder or a zip archive.

    Raises:
        UsageError: There is none, or the archive holds what no honest one does; see `Archive`.
    """
    if path.is_dir():
        return FolderArchive(path)
    if not path.is_file():
        raise UsageError(f"no folder or archive at {path}; name the one that holds the images")
    return ZipArchive(path)


class FolderArchive(ImageArchive):
    """A folder and what lies below it; links are followed, as everything that reads images does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """See `Source.names`.

        Raises:
            UsageError: A folder cannot be listed, or lies deeper than any in a set of images.
        """
        found: list[str] = []
        for folder, _, names in os.walk(self.path, onerror=_refuse_folder, followlinks=True):
            here = Path(folder).relative_to(self.path)
            if names and len(here.parts) > MAX_DEPTH:
                raise UsageError(
                    f"{folder} lies {len(here.parts)} folders below {self.path}; name the folder "
                    "that holds the class folders"
                )
            found += [(here / name).as_posix() for name in names]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """See `Source.read`."""
        path = self.path / name
        try:
            _require_size(str(path), path.stat().st_size)
            return path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


class ZipArchive(ImageArchive):
    """A zip archive, read in place and file by file.

    Its table is checked as a whole before anything is read.

    Raises:
        UsageError: It is no zip archive or damaged; a name leaves it, is no plain file's or stands
            twice; a file is encrypted; or it says that it holds more than it can be meant to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _named_failures(path):
            self._archive = zipfile.ZipFile(path)
        infos = [info for info in self._archive.infolist() if not info.is_dir()]
        for info in infos:
            _require_plain(path, info)
        _require_amounts(path, infos)
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) < len(infos):
            raise UsageError(f"{path}: a name stands twice in it; pack the images anew")

    def names(self) -> list[str]:
        """See `Source.names`."""
        return sorted(self._infos)

    def read(self, name: str) -> bytes:
        """See `Source.read`."""
        _require_size(f"{self.path}: {name}", self._infos[name].file_size)
        with _named_failures(self.path, name), self._archive.open(name) as file:
            # More than a file's stated size is never unpacked, whatever its data say.
            return file.read()


# What zipfile makes of damaged archives: names that are no text are a ValueError.
_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError)


@contextmanager
def _named_failures(path: Path, name: str = "") -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        what = f"file {name} in {path}" if name else str(path)
        raise UsageError(
            f"{what} cannot be read: {error}; name a folder of images, or a whole zip archive such "
            "as `prism-nb export` writes"
        ) from None


def _refuse_folder(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be listed: {error.strerror or error}") from None


def _require_size(what: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UsageError(
            f"{what} is {size / 1e6:.0f} MB; a file of a set of small images is at most "
            f"{MAX_FILE_BYTES / 1e6:.0f} MB, so something else lies there"
        )


def _require_plain(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse names that would leave a folder that the archive is unpacked in, and odd kinds."""
    # `orig_filename` is what the archive says; zipfile itself mends some of it.
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise UsageError(f"{path}: the name {name!r} leads out of the archive; do not trust it")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG}:
        raise UsageError(f"{path}: {name!r} is a link or a device, no file; do not trust it")
    if info.flag_bits & 1:
        raise UsageError(f"{path}: {name!r} is encrypted; unpack it and name the folder")


def _require_amounts(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive by the sizes that it states, before anything is unpacked."""
    total = sum(info.file_size for info in infos)
    if len(infos) > MAX_FILES or total > MAX_BYTES:
        raise UsageError(
            f"{path} says that it holds {len(infos)} files of {total / 1e9:.1f} GB in all; at most "
            f"{MAX_FILES} and {MAX_BYTES / 1e9:.0f} GB are read"
        )
    for info in infos:
        ratio = info.file_size / max(1, info.compress_size)
        if info.file_size > _RATIO_FROM and ratio > MAX_RATIO:
            raise UsageError(
                f"{path}: {info.filename!r} would unpack to {ratio:.0f} times its size, as only "
                "archives do that are meant to harm; do not trust it"
            )


CLASSES_FILE = "classes.json"
_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
# Files beside the class folders that say something about the images and are none.
_COMPANIONS = {CLASSES_FILE, "metadata.jsonl", "README.md", "card.md", ".gitattributes"}
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class NamingScheme:
    """A way of naming class folders and images.

    Attributes:
        name: What messages call it.
        folder: A class folder; its group is the class's place in the order.
        file: An image; its groups are the class's place and the image's number in the class.
    """

    name: str
    folder: re.Pattern[str]
    file: re.Pattern[str]


PUBLISHED = NamingScheme(
    "published (new000/class000_id000.jpg)",
    re.compile(r"new(\d{3,})"),
    re.compile(r"class(\d{3,})_id(\d{3,})"),
)
OWN = NamingScheme(
    "the kit's own (00000/00000_0000.png)",
    re.compile(r"(\d{5,})"),
    re.compile(r"(\d{5,})_(\d{4,})"),
)


@dataclass(frozen=True)
class Listing:
    """The images of a set.

    Attributes:
        layout: What the layout is called.
        classes: The names of each class's images, in slot order; a class may have none.
    """

    layout: str
    classes: tuple[tuple[str, ...], ...]


def list_images(source: ImageArchive, classes: Sequence[ClassInfo]) -> Listing:
    """Find every class's images.

    Args:
        source: The set.
        classes: The dataset's, in order.

    Raises:
        UsageError: Something is no image, lies too deep, or fits no class; the first is named.
    """
    names = [name for name in source.names() if not _is_litter(name)]
    prefix, images = _images_of(source, names)
    for name in (CLASSES_FILE, prefix + CLASSES_FILE):
        if name in names:
            _require_order(source, name, classes)
    folders = sorted({name.split("/")[0] for name in images})
    layout = _layout_of(source, folders, classes)
    index_of = {folder: _class_of(source, layout, folder, classes) for folder in folders}
    found: list[dict[int | str, str]] = [{} for _ in classes]
    for name in images:
        folder = name.split("/")[0]
        group, key = found[index_of[folder]], _key_of(source, layout, name, index_of[folder])
        if key in group:
            raise UsageError(
                f"{source.path}: {group[key]} and {prefix}{name} are both image {key!r} of one "
                "class; take one of them away"
            )
        group[key] = prefix + name
    image_indices = tuple(tuple(group[key] for key in sorted(group, key=_order)) for group in found)
    return Listing(layout.name if layout else "folders named as the classes", image_indices)


def _order(key: int | str) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (0, key)


def _is_litter(name: str) -> bool:
    """Return whether a file is one that desktops leave wherever they have been."""
    path = PurePosixPath(name)
    return path.name in _LITTER or path.name.startswith("._") or "__MACOSX" in path.parts


def _prefix_of(names: Sequence[str]) -> str:
    """Return the folder in which the class folders lie: `images/`, or one that holds all else."""
    if any(name.startswith("images/") for name in names):
        return "images/"
    top = {name.split("/")[0] for name in names}
    deep = all(name.count("/") > 1 or PurePosixPath(name).name in _COMPANIONS for name in names)
    return f"{top.pop()}/" if len(top) == 1 and deep else ""


def _images_of(source: ImageArchive, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return what all images' names begin with, and the rest of each: `folder/file`."""
    prefix = _prefix_of(names)
    inside = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
    inside = [name for name in inside if name not in _COMPANIONS]
    if not inside:
        raise UsageError(f"{source.path} holds no images; name the folder of the class folders")
    for name in inside:
        if PurePosixPath(name).suffix.lower() not in _IMAGES:
            raise UsageError(
                f"{source.path}: {prefix}{name} is no image; PNG, JPEG and WebP in class folders "
                "are read, so take it away"
            )
        if name.count("/") != 1:
            raise UsageError(
                f"{source.path}: {prefix}{name} does not lie in a class folder; name the folder "
                "that holds the class folders, and nothing else"
            )
    return prefix, inside


def _require_order(source: ImageArchive, name: str, classes: Sequence[ClassInfo]) -> None:
    """Compare the class order that a file of a set states with the dataset's."""
    try:
        stated = json.loads(source.read(name))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source.path}: {name} is damaged: {error}") from None
    if not isinstance(stated, list):
        raise UsageError(f"{source.path}: {name} is damaged: it must hold a list")
    mine: list[dict[str, Any]] = [vars(info) for info in classes]
    found = first_difference(mine, stated)
    if found is not None:
        index, ours, theirs = found
        raise UsageError(
            f"{source.path}: the classes differ at index {index}: {name} has {theirs}, "
            f"the dataset {ours}; import it into a run of the dataset that it was made from"
        )


def _layout_of(
    source: ImageArchive, folders: Sequence[str], classes: Sequence[ClassInfo]
) -> NamingScheme | None:
    """Return the numbered layout of a set, or None where folders are named as the classes.

    Raises:
        UsageError: Names and numbers both fit, and mean different classes.
    """
    by_name = {info.folder: info.index for info in classes}
    numbered = next(
        (each for each in (PUBLISHED, OWN) if all(each.folder.fullmatch(f) for f in folders)), None
    )
    if numbered is None or not all(folder in by_name for folder in folders):
        mixed = next((each for each in (PUBLISHED, OWN) if each.folder.fullmatch(folders[0])), None)
        return numbered or (None if folders[0] in by_name else mixed)
    for folder in folders:
        if _number(numbered, folder) != by_name[folder]:
            raise UsageError(
                f"{source.path}: folder {folder!r} is class {by_name[folder]} by its name and "
                f"{_number(numbered, folder)} by its number; rename the folders as new000, new001, "
                "..., in class order"
            )
    return None


def _class_of(
    source: ImageArchive, layout: NamingScheme | None, folder: str, classes: Sequence[ClassInfo]
) -> int:
    if layout is None:
        by_name = {info.folder: info.index for info in classes}
        if folder in by_name:
            return by_name[folder]
        raise UsageError(
            f"{source.path}: folder {folder!r} is no class of the dataset; "
            f"{suggest(folder, by_name)}"
        )
    index = _number(layout, folder)
    if 0 <= index < len(classes):
        return index
    raise UsageError(
        f"{source.path}: folder {folder!r} is none of the {len(classes)} classes in the layout "
        f"{layout.name}; folders are numbered from 0, in the dataset's class order"
    )


def _key_of(source: ImageArchive, layout: NamingScheme | None, name: str, index: int) -> int | str:
    """Return what orders an image within its class: its number, or its file's name."""
    stem = PurePosixPath(name).stem
    if layout is None:
        return stem
    file = layout.file.fullmatch(stem)
    if file is not None and int(file[1]) == index:
        return int(file[2])
    raise UsageError(
        f"{source.path}: {name} is not named as an image of its class in the layout "
        f"{layout.name}; rename it"
    )


def _number(layout: NamingScheme, folder: str) -> int:
    found = layout.folder.fullmatch(folder)
    return int(found[1]) if found else -1


_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "CMYK"}  # of 8 bits or fewer per channel
MAX_PIXELS = 2**24  # of an image, above which it is a decompression bomb


def decode_image(content: bytes, *, name: str, size: int, resize: bool) -> Tensor:
    """Decode one PNG, JPEG or WebP image.

    Args:
        content: The file's bytes.
        name: What messages call it.
        size: The side that it must have, in pixels.
        resize: Whether one of another size is scaled (bicubic) until it covers the square, and
            cut at its centre; otherwise it is refused.

    Returns:
        Pixels, uint8 RGB [3, size, size].

    Raises:
        UsageError: It is no such image, is damaged, too large to be meant, of another size, partly
            transparent, animated, or of more than 8 bits per channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=_FORMATS) as image:
                _require_8bit(image, name)
                _require_side(image, name, size, resize=resize)
                plain = _rgb(image, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{name} is a decompression bomb: {error}; do not trust it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UsageError(
            f"{name} cannot be read as PNG, JPEG or WebP: {error}; fetch it again or take it away"
        ) from None
    if plain.size != (size, size):
        plain = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(plain)).permute(2, 0, 1).contiguous()


def _require_8bit(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"{name} is a decompression bomb: it would unpack to {width} x {height} pixels; do not "
            "trust it"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise UsageError(f"{name} is animated; store one picture per file")
    if image.mode not in _MODES:
        raise UsageError(
            f"{name} has pixels of kind {image.mode}; store it with 8 bits per channel"
        )


def _require_side(image: Image.Image, name: str, size: int, *, resize: bool) -> None:
    if image.size != (size, size) and not resize:
        width, height = image.size
        raise UsageError(
            f"{name} is {width} x {height} pixels, but image_size is {size}; set image_size to "
            "theirs, or `resize: true` in the recipe (--resize) to fit them"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:
            raise UsageError(
                f"{name} is partly transparent, so its colours depend on what lies behind it; "
                "store it without transparency"
            )
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class ImportedSet:
    """Other people's images, `ipc` of every class.

    Attributes:
        source: Where they lie.
        listing: Which file is which image.
        size: The side of the images, in pixels.
        resize: Whether those of another size are fitted.
    """

    source: ImageArchive
    listing: Listing
    size: int
    resize: bool

    def images(self, members: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Any]]:
        """Read some images.

        Args:
            members: (class, slot) of each.

        Returns:
            Pixels, uint8 [n, 3, S, S], and a record of where they are from: the source, its
            layout, and the SHA-256 of the names and contents that were read, in order.

        Raises:
            UsageError: An image cannot be taken over; see `pixels.decode`.
        """
        hashed, pixels = hashlib.sha256(), []
        for class_index, image_index in members:
            name = self.listing.classes[class_index][image_index]
            content = self.source.read(name)
            hashed.update(f"{name}\n{len(content)}\n".encode())
            hashed.update(content)
            where = f"{self.source.path}: {name}"
            pixels.append(decode_image(content, name=where, size=self.size, resize=self.resize))
        record = {
            "source": str(self.source.path),
            "layout": self.listing.layout,
            "source_sha256": hashed.hexdigest(),
        }
        return torch.stack(pixels), record


def imported_set(settings: Settings, method: str, dataset: ImageDataset) -> ImportedSet:
    """Find the images of an imported method and check that they are as many as the run has.

    Raises:
        UsageError: They are not there, do not fit the classes, or are too few or too many; the
            first class of which that is so is named.
    """
    recipe = settings.recipe_of(method)
    source = open_archive(Path(recipe.source or ""))
    listing = list_images(source, dataset.classes)
    check_ipc(source, listing, dataset.classes, settings.ipc)
    return ImportedSet(source, listing, dataset.image_size, recipe.resize)


def check_ipc(
    source: ImageArchive, listing: Listing, classes: Sequence[ClassInfo], ipc: int
) -> None:
    """Check that every class has `ipc` images.

    Raises:
        UsageError: One has not; the first is named.
    """
    for info, names in zip(classes, listing.classes, strict=True):
        if len(names) != ipc:
            raise UsageError(
                f"{source.path} has {len(names)} images of class {info.index} "
                f"({info.folder!r}), but ipc is {ipc}; every class needs as many, so set ipc to "
                "what the set has, or take some away from every class"
            )


def infer_ipc(path: Path, dataset: ImageDataset) -> int:
    """Return how many images a set has of its first class; 1 where it has none.

    Raises:
        UsageError: It cannot be read as a set of the dataset.
    """
    return max(1, len(list_images(open_archive(path), dataset.classes).classes[0]))
