"""Images decoded once into a file, and read from there as often as they are looked at."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.lib import format as npy
from torch import Tensor
from tqdm import tqdm

from prism_nb import files
from prism_nb.errors import PrismError

_PART = 256
_SPARE = 1.02  # of the disk, so that a full one is refused before an hour of decoding
Decode = Callable[[Sequence[int]], Tensor]


def decoded_once(path: Path, decode: Decode, *, count: int, size: int) -> np.ndarray:
    """Return images from a memory-mapped file, which is made where it is missing.

    Its pages are the system's to keep or drop, so that the memory of a process does not grow. A
    second process that wants the same file waits for the first. What the file holds is trusted
    once its shape fits: it is written whole or not at all.

    Args:
        path: The file; its name must say all that decides its content.
        decode: Returns images by place, uint8 [n, 3, size, size].
        count: Number of images.
        size: Their side, in pixels.

    Returns:
        uint8 [count, 3, size, size], read-only.

    Raises:
        PrismError: Too little space, or none that may be written to; or an image is damaged, and
            nothing is kept.
    """
    shape = (count, 3, size, size)
    kept = _mapped(path, shape)
    if kept is not None:
        return kept
    with _held(path):
        if _mapped(path, shape) is None:
            _require_space(path, shape)
            files.write_parts(path, _parts(decode, shape, path))
    kept = _mapped(path, shape)
    if kept is None:
        raise PrismError(f"{path} has just been written and cannot be read; look at the disk")
    return kept


def pick(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """Copy images out of a mapped file, uint8 [n, 3, S, S]."""
    return torch.from_numpy(np.array(images[np.asarray(indices, dtype=np.int64)]))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other processes from making a file, and clear away what a killed one has left of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()
    except OSError as error:
        raise PrismError(
            f"cannot write to {path.parent}: {error.strerror or error}; set PRISM_CACHE to a "
            "folder that you may write to"
        ) from None
    with lock:
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
        yield


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None


def _parts(decode: Decode, shape: tuple[int, ...], path: Path) -> Iterator[bytes]:
    count, gigabytes = shape[0], np.prod(shape) / 1e9
    yield _header(shape)
    title = f"decoding {count} held-out images once, {gigabytes:.2f} GB in {path.parent}"
    for start in tqdm(range(0, count, _PART), desc=title, mininterval=2, leave=False):
        images = decode(range(start, min(start + _PART, count)))
        yield images.contiguous().numpy().tobytes()


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, described)
    return header.getvalue()


def _require_space(path: Path, shape: tuple[int, ...]) -> None:
    needed, free = float(np.prod(shape)) * _SPARE, shutil.disk_usage(path.parent).free
    if needed > free:
        raise PrismError(
            f"the decoded held-out images take {needed / 1e9:.1f} GB in {path.parent}, where "
            f"{free / 1e9:.1f} GB are free; make room, or set PRISM_CACHE to a folder on a larger "
            "disk and run the same command again"
        )
