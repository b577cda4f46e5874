"""Images decoded once into a file, and read from there as often as they are looked at."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from tqdm import tqdm

from prism_nb import files
from prism_nb.errors import PrismError

_PART = 256
_SPARE = 1.02  # of the disk, so that a full one is refused before an hour of decoding
Decode = Callable[[Sequence[int]], Tensor]


def decoded_once(
    path: Path,
    decode: Decode,
    *,
    count: int,
    size: int,
    what: str = "held-out images",
    progress: bool = True,
) -> np.ndarray:
    """Return images from a memory-mapped file, which is made where it is missing.

    Its pages are the system's to keep or drop, so that the memory of a process does not grow. A
    second process that wants the same file waits for the first. What the file holds is trusted
    once its shape fits: it is written whole or not at all.

    Args:
        path: The file; its name must say all that decides its content.
        decode: Returns images by place, uint8 [n, 3, size, size].
        count: Number of images.
        size: Their side, in pixels.
        what: What they are called.
        progress: Whether to show a bar.

    Returns:
        uint8 [count, 3, size, size], read-only.

    Raises:
        PrismError: Too little space, or none that may be written to; or an image is damaged, and
            nothing is kept.
    """
    shape = (count, 3, size, size)
    kept = mapped(path, count=count, size=size)
    if kept is not None:
        return kept
    with _held(path):
        if mapped(path, count=count, size=size) is None:
            _require_space(path, shape, what)
            title = f"{count} {what} once, {np.prod(shape) / 1e9:.2f} GB in {path.parent}"
            files.write_parts(path, _parts(decode, shape, title if progress else None))
    kept = mapped(path, count=count, size=size)
    if kept is None:
        raise PrismError(f"{path} has just been written and cannot be read; look at the disk")
    return kept


def pick(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """Copy images out of a mapped file, uint8 [n, 3, S, S]."""
    return torch.from_numpy(np.array(images[np.asarray(indices, dtype=np.int64)]))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other processes from making a file, and clear away what a killed one has left of it."""
    with files.alone(path.with_suffix(".lock"), patience=-1):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
        yield


def mapped(path: Path, *, count: int, size: int) -> np.ndarray | None:
    """Return a file of `decoded_once`, or None where it is missing or torn."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (count, 3, size, size) and found.dtype == np.uint8 else None


def _parts(decode: Decode, shape: tuple[int, ...], title: str | None) -> Iterator[bytes]:
    count = shape[0]
    yield _header(shape)
    starts = range(0, count, _PART)
    for start in tqdm(
        starts, f"decoding {title}", disable=title is None, mininterval=2, leave=False
    ):
        images = decode(range(start, min(start + _PART, count)))
        yield images.contiguous().numpy().tobytes()


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, described)
    return header.getvalue()


def _require_space(path: Path, shape: tuple[int, ...], what: str) -> None:
    needed, free = float(np.prod(shape)) * _SPARE, shutil.disk_usage(path.parent).free
    if needed > free:
        raise PrismError(
            f"the decoded {what} take {needed / 1e9:.1f} GB in {path.parent}, where "
            f"{free / 1e9:.1f} GB are free; make room, or set PRISM_CACHE to a folder on a larger "
            "disk and run the same command again"
        )
