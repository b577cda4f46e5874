"""The files of a set made elsewhere: a folder, or a zip archive."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from prism_nb.core.errors import UsageError
from prism_nb.data.index import is_litter

MAX_FILE_BYTES = 64 * 2**20  # of one image; 224 px take a tenth of a megabyte
# How zipfile fails on damaged or encrypted archives; names that are no text are a ValueError.
_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


class ImageArchive:
    """The files of a folder, links included, or of a zip archive, which is never unpacked.

    Raises:
        UsageError: The path is missing, cannot be read, or is a file of another kind.
    """

    path: Path  # of the folder or archive
    names: list[str]  # of all files that are not hidden, relative, with forward slashes, sorted
    note = ""  # what a record says before the layout
    _zip: zipfile.ZipFile | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() != ".zip" and path.is_file():
            raise UsageError(
                f"{path} is no zip archive, parquet or tensor file of images; unpack it, or save "
                "its images as <class number>/<number>.png (docs/methods.md)"
            )
        try:
            if path.is_dir():
                names = set(_walk(path))
            else:
                self._zip = zipfile.ZipFile(path)
                names = {info.filename for info in self._zip.infolist() if not info.is_dir()}
            self.names = sorted(name for name in names if not _is_hidden(name))
        except _READ_ERRORS as error:
            raise UsageError(
                f"{path} cannot be read: {error}; name a folder or complete zip archive of images"
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
    return UsageError(
        f"{file} cannot be read as {kind}: {error}; fetch the set again (`git lfs pull` if it is a "
        "pointer)"
    )


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
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in files)


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(part.strip(".") and is_litter(part) for part in parts)
