"""Atomic writes, hashes, and reads that distinguish damaged files from unavailable disks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from prism_nb.core.errors import PrismError

# Errors of names under which there is no file, and of places that can only be read.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


# -- writing ---------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a plain value as readable JSON, atomically."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return a plain value as readable JSON; NaN and infinity, which JSON lacks, are refused."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    atomic_write(path, lambda file: file.write(content))


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader gets the old content, the new, or none, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise write_error(path, error) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power loss, where the file system supports that."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_error(path: Path, error: OSError) -> PrismError:
    """Return the error to raise where a file of a run or of the cache cannot be written."""
    remedy = "copy the run to" if error.errno in _READ_ONLY else "free some space or choose"
    return PrismError(
        f"cannot write {path}: {error.strerror or error}; {remedy} a folder that you may write to "
        "(--runs-dir or PRISM_RUNS for runs, PRISM_CACHE for the cache of datasets); run the same "
        "command again, finished work is kept"
    )


def create_exclusive(path: Path, content: bytes) -> bool:
    """Create a file and return True; False where it exists, also by a process that tries at once.

    A reader may find it before its content is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except BaseException:
        path.unlink()
        raise
    return True


def append_line(path: Path, text: str) -> None:
    """Append a line to a log, apart from an unfinished line that a crash has left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            unfinished = file.read(1) not in {b"", b"\n"}
            file.write((("\n" if unfinished else "") + text + "\n").encode("utf-8"))
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def exclusive_lock(path: Path, *, timeout: float = 60.0) -> Iterator[None]:
    """Hold a lock file of this machine's kernel, for short changes by one process at a time.

    It is waited for `timeout` seconds; below 0: without limit.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path).acquire(timeout=timeout)
    except Timeout:
        raise PrismError(
            f"{path} has been held by another process for {timeout:.0f} s; if none is at work, "
            "delete that file"
        ) from None
    except OSError as error:
        raise write_error(path, error) from error
    with held:
        yield


# -- reading; a disk that does not answer is a PrismError ------------------------------------


def is_file(path: Path) -> bool:
    """Return whether there is a file."""
    try:
        with _read_errors(path):
            return path.is_file()
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        return False


def read_json(path: Path) -> Any:
    """Read a JSON file; None where it is missing or damaged."""
    try:
        with _read_errors(path):
            return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file of names and values; empty where it is missing, damaged or different."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, or "" where there is no file."""
    try:
        with _read_errors(path), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Distinguish a missing file from an unavailable disk.

    Finished work must not count as lost because a network share was away for a moment.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(*error.args) from error
        raise PrismError(
            f"cannot read {path}: {error.strerror or error}; run the same command again once the "
            "disk or share answers, and you may read there. Nothing was changed"
        ) from error
