"""The files of a set made elsewhere: a folder, or a zip archive."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from prism_nb.core.errors import UsageError
from prism_nb.core.paths import check_link
from prism_nb.data.index import is_litter

GIT_LFS = b"version https://git-lfs"  # how a pointer begins in place of a large file
MAX_FILE_BYTES = 64 * 2**20  # of one image; 224 px take a tenth of a megabyte
# How zipfile fails on damaged or encrypted archives; names that are no text are a ValueError.
_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)
# Files that may hold images, but are none: what they are, and how to come to images.
_OTHER_FILES = {
    (".pt", ".pth"): "a file of tensors; unpack the archive, and name this file",
    (".parquet",): "a table; unpack the archive, and name its folder",
    (
        *(".pth.tar", ".ckpt", ".pkl", ".pickle", ".joblib"),
        *(".npy", ".npz", ".safetensors", ".h5", ".hdf5", ".mat"),
    ): (
        "a file of tensors, not of images; save these as <class number>/<number>.png "
        "(docs/methods.md shows how)"
    ),
    (".arrow", ".tfrecord", ".lmdb", ".mdb", ".rec", ".beton", ".jsonl"): (
        "a table, not a folder of images; save its images as <class number>/<number>.png "
        "(docs/methods.md shows how)"
    ),
    (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".zip"): (
        "an archive; unpack it, and name the folder of its class folders"
    ),
}


class ImageArchive:
    """The files of a folder, links included, or of a zip archive, which is never unpacked.

    Attributes:
        path: The folder or archive.
        names: Relative names of all files that are not hidden, with forward slashes, sorted.
        note: What a record says before the layout.

    Raises:
        UsageError: The path is missing, cannot be read, or is a file of another kind.
    """

    note = ""
    _zip: zipfile.ZipFile | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() != ".zip" and path.is_file() and (kind := other_kind(path.name)):
            raise UsageError(f"{path} is {kind}")
        try:
            if path.is_dir():
                names = set(_walk(path))
            else:
                self._zip = zipfile.ZipFile(path)
                names = {info.filename for info in self._zip.infolist() if not info.is_dir()}
            self.names = sorted(name for name in names if not _is_hidden(name))
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

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of several images, in their order."""
        return map(self.read, names)


def damage(file: Path, kind: str, error: object) -> UsageError:
    """Return the error to raise where a file of a set cannot be read as what it is."""
    with suppress(OSError), file.open("rb") as opened:
        if opened.read(len(GIT_LFS)) == GIT_LFS:
            return UsageError(f"{file} is a pointer to a file; run `git lfs pull`")
    return UsageError(f"{file} cannot be read as {kind}: {error}; fetch the set again")


def other_kind(name: str) -> str | None:
    """Return what a file is that may hold images but is none, and the remedy."""
    kinds = _OTHER_FILES.items()
    return next((kind for ends, kind in kinds if name.lower().endswith(ends)), None)


def _walk(folder: Path) -> Iterator[str]:
    """Yield the relative names of all files; links are followed, unless to a folder above."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(place)
        folders[:] = [
            name
            for name in folders
            if not (is_litter(name) or here.resolve().is_relative_to((here / name).resolve()))
        ]
        prefix = here.relative_to(folder).as_posix()
        for name in files:  # links to folders that are away are among them
            if not is_litter(name):
                check_link(here / name)
            yield name if prefix == "." else f"{prefix}/{name}"


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(part.strip(".") and is_litter(part) for part in parts)
