"""Writing an export: a folder that appears whole, or a zip archive of the same bytes every time."""

from __future__ import annotations

import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prism_nb import files
from prism_nb.errors import PrismError, UsageError

_WHEN = (1980, 1, 1, 0, 0, 0)  # the first date that zip knows; the true one would change the bytes
_UNIX = 3


@dataclass(frozen=True)
class Piece:
    """A file of an export: its name there, and its content when that is asked for."""

    name: str
    content: Callable[[], bytes]


def require_free(dest: Path, *, archive: bool) -> None:
    """Check that an export would overwrite nothing.

    Raises:
        UsageError: Something lies there, or an archive is not called `.zip`.
    """
    if archive:
        if dest.suffix != ".zip":
            raise UsageError(f"an archive is one file: call it {dest.name}.zip, or name a --layout")
        if dest.exists():
            raise UsageError(f"{dest} is there already; choose another name, or delete it")
    elif dest.exists() and not dest.is_dir():
        raise UsageError(f"{dest} is a file; name a folder that is empty or not there yet")
    elif dest.exists() and any(dest.iterdir()):
        raise UsageError(f"{dest} is not empty; name a folder that is, or is not there yet")


def write_folder(dest: Path, pieces: Sequence[Piece]) -> None:
    """Write an export as a folder; after an interruption there is none.

    Raises:
        PrismError: It cannot be written.
    """
    part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    try:
        for piece in pieces:
            files.write_bytes(part / piece.name, piece.content())
        part.replace(dest)
    except OSError as error:
        raise PrismError(f"cannot write {dest}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_archive(dest: Path, pieces: Sequence[Piece]) -> None:
    """Write an export as a zip archive, whole or not at all.

    Nothing is packed, since images and labels hardly get smaller and every zlib packs in its own
    way; times and rights are fixed.

    Raises:
        PrismError: It cannot be written.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for piece in pieces:
                info = zipfile.ZipInfo(piece.name, _WHEN)
                info.create_system = _UNIX
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, piece.content())

    files.write_through(dest, write)
