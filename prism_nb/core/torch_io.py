"""Safe reading of `torch.save` files, and hashes of tensors."""

from __future__ import annotations

import hashlib
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "long": "int", "unicode": "str"}
_ARCHIVE = b"PK\x03\x04"  # torch reads a file that begins with it as an archive


class ZipBombError(ValueError):
    """A file that could fill more memory than its size."""


def load_torch_file(path: Path, *, also: Sequence[Any] = ()) -> Any:
    """Read tensors and plain containers onto the CPU.

    `torch.save` does not compress. torch would unpack compressed entries, to a thousand times their
    size, so such an archive is refused before torch reads it. Types in `also` may be in its pickle,
    as in `torch.serialization.safe_globals`.

    Raises:
        ZipBombError: The archive has compressed entries, or may have.
        pickle.UnpicklingError: It contains other types.
        Exception: Other errors of torch's reader on damaged content.
    """
    _reject_compressed(path)
    with torch.serialization.safe_globals([*also]):
        return torch.load(path, map_location="cpu", weights_only=True)


def names_in_file(path: Path) -> set[str]:
    """Return the classes and functions that the pickles of a file name, e.g. `os.kill`.

    Nothing is imported or called; what cannot be read has no names.

    Raises:
        ZipBombError: As of `load_torch_file`.
    """
    _reject_compressed(path)
    names = set[str]()
    with path.open("rb") as file, suppress(Exception):  # damaged content fails in many ways
        parts = zipfile.ZipFile(file) if zipfile.is_zipfile(file) else None
        pickles = [n for n in parts.namelist() if n.endswith("data.pkl")] if parts else [""] * 5
        file.seek(0)
        for part in pickles:  # the format before torch 1.6 is five pickles and the values
            stream = parts.open(part) if parts else file
            for operation, value, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    names.add(".".join(_PYTHON_2.get(n, n) for n in str(value).split(" ")))
    return names


def _reject_compressed(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ZipBombError(str(error)) from None
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ZipBombError("its entries are compressed, which torch.save never does")


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors on the CPU: their names, types, shapes and bytes."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        hashed.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        hashed.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
