"""What `torch.save` wrote, read so that a file can neither run anything nor unfold in memory."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ARCHIVE = b"PK\x03\x04"  # torch reads a file that begins with it as an archive
_END_SIZE = 22  # bytes of the record at an archive's very end, where it has no comment
_LOCATOR = struct.Struct("<4sLQL")  # before it in large ones: signature, disk, place, disks
_LARGE_END_SIZE = 56  # bytes of the record that this points to


class ZipBombError(ValueError):
    """A file that could fill more memory than it takes on the disk."""


def load_torch_file(path: Path, *, also: Sequence[Any] = ()) -> Any:
    """Read tensors and plain containers onto the CPU.

    `torch.save` stores an archive's parts as they are. torch would unpack deflated ones too, at a
    thousand times their size, so an archive that says so is refused before torch sees it.

    Args:
        path: The file.
        also: What its pickle may ask for beside tensors, as `torch.serialization.safe_globals`.

    Raises:
        UnfoldingError: Its parts are packed, or cannot be told from packed ones.
        pickle.UnpicklingError: It asks for more than that, or is no such file.
        Exception: Whatever damaged content makes of torch's readers.
    """
    _refuse_packed(path)
    with torch.serialization.safe_globals([*also]):
        return torch.load(path, map_location="cpu", weights_only=True)


def fits_in_file(tensor: Tensor, path: Path) -> bool:
    """Return whether a file can hold a tensor's values: a view may claim any size, or none."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return plain and tensor.numel() * tensor.element_size() <= path.stat().st_size


def _refuse_packed(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            parts, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ZipBombError(str(error)) from None
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ZipBombError("its parts are packed, which torch.save never does")
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise ZipBombError("its parts claim to be larger than the file")
    # Python looks for the list of parts before the file's end, torch where the end says.
    first = min((part.header_offset for part in parts), default=1)
    if comment or first or _points_elsewhere(path):
        raise ZipBombError("it may have two lists of its parts, which torch.save never writes")


def _points_elsewhere(path: Path) -> bool:
    """Return whether an archive's end points to another record than the one before it."""
    with path.open("rb") as file:
        place = file.seek(-_END_SIZE - _LOCATOR.size, os.SEEK_END)
        signature, _, pointed, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    return bool(signature == b"PK\x06\x07" and pointed != place - _LARGE_END_SIZE)
