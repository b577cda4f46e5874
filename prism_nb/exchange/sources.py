"""Where the files of an image set lie: a folder, or a zip archive that is never unpacked."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from prism_nb.errors import UsageError

MOST_FILE_BYTES = 64 * 2**20  # of one image file; 224 px take a tenth of a megabyte
MOST_FILES = 5_000_000
MOST_DEPTH = 4  # of folders; a set of images needs two
MOST_BYTES = 2**40  # that an archive may say it holds
MOST_RATIO = 200  # of bytes to packed bytes, beyond which an archive is a bomb
_RATIO_FROM = 2**20  # bytes; small files may pack well


class Source(ABC):
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


def open_source(path: Path) -> Source:
    """Open a folder or a zip archive.

    Raises:
        UsageError: There is none, or the archive holds what no honest one does; see `Archive`.
    """
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise UsageError(f"no folder or archive at {path}; name the one that holds the images")
    return Archive(path)


class Folder(Source):
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
            if names and len(here.parts) > MOST_DEPTH:
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


class Archive(Source):
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
    if size > MOST_FILE_BYTES:
        raise UsageError(
            f"{what} is {size / 1e6:.0f} MB; a file of a set of small images is at most "
            f"{MOST_FILE_BYTES / 1e6:.0f} MB, so something else lies there"
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
    if len(infos) > MOST_FILES or total > MOST_BYTES:
        raise UsageError(
            f"{path} says that it holds {len(infos)} files of {total / 1e9:.1f} GB in all; at most "
            f"{MOST_FILES} and {MOST_BYTES / 1e9:.0f} GB are read"
        )
    for info in infos:
        ratio = info.file_size / max(1, info.compress_size)
        if info.file_size > _RATIO_FROM and ratio > MOST_RATIO:
            raise UsageError(
                f"{path}: {info.filename!r} would unpack to {ratio:.0f} times its size, as only "
                "archives do that are meant to harm; do not trust it"
            )
