"""Image files as square RGB bytes, decoded side by side."""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.data.dataset import ImageDataset

_LONGEST = 200  # sides over one another: a strip longer than that would take gigabytes to resize
IMAGENET_MARGIN = 256 / 224  # shorter side over crop in the published evaluation of ImageNet
# What Pillow raises on files that are damaged, cut off, no image at all or absurdly large.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class CorruptImageError(PrismError):
    """An image file that cannot be decoded.

    Attributes:
        path: The file.
    """

    path = Path()


def read_image(path: Path, size: int, margin: float = IMAGENET_MARGIN) -> np.ndarray:
    """Return an image as square RGB bytes.

    It is turned as its EXIF orientation says. Transparent parts lie over white; greyscale,
    palette and CMYK become RGB as Pillow converts them, 16-bit grey keeps its upper eight bits;
    of an animation, the first frame is taken. The shorter side becomes size * margin, rounded
    (bicubic, antialiased), of which the centre is cut out.

    Args:
        path: A JPEG, PNG or WebP file, whatever its name ends in.
        size: Side of the square, in pixels.
        margin: The shorter side before the cut, over `size`; at least 1.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DamagedImageError: The file cannot be read or decoded; it is named.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(
                resize_center_crop(_rgb(ImageOps.exif_transpose(image)), size, margin)
            )
    except DECODE_ERRORS as error:
        raise _damaged(path, error) from None


def read_images(paths: Sequence[Path], size: int, margin: float = IMAGENET_MARGIN) -> Tensor:
    """Return images as `read_image` reads them, uint8 [n, 3, size, size].

    As many threads decode as torch computes with, so that workers side by side share the cores.
    """
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def read(place: int) -> None:
        pixels[place] = read_image(paths[place], size, margin)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for _ in threads.map(read, range(len(paths))):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _damaged(path: Path, why: Exception) -> CorruptImageError:
    error = CorruptImageError(
        f"image {path} cannot be decoded: {why}; restore that file, and the same command goes on; "
        "or begin another run with skip_corrupt set to true, which leaves damaged images out"
    )
    error.path = path  # no argument, so that the error can pass from one process to another
    return error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda level: level / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def resize_center_crop(image: Image.Image, size: int, margin: float) -> Image.Image:
    """Resize an image's shorter side to size * margin and cut out its centre.

    Raises:
        ValueError: One side is more than 200 times the other.
    """
    shorter = round(size * margin)
    least = min(image.size)
    if max(image.size) > least * _LONGEST:
        raise ValueError(f"it is {image.width} x {image.height} pixels, a mere strip")
    width, height = (shorter * side // least for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))


_PART = 256
_SPARE = 1.02  # of the disk, so that a full one is refused before an hour of decoding
Decode = Callable[[Sequence[int]], Tensor]


def cached_decode(
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
    kept = open_memmap(path, count=count, size=size)
    if kept is not None:
        return kept
    with _held(path):
        if open_memmap(path, count=count, size=size) is None:
            _require_space(path, shape, what)
            title = f"{count} {what} once, {np.prod(shape) / 1e9:.2f} GB in {path.parent}"
            fileio.write_chunks(path, _parts(decode, shape, title if progress else None))
    kept = open_memmap(path, count=count, size=size)
    if kept is None:
        raise PrismError(f"{path} has just been written and cannot be read; look at the disk")
    return kept


def gather(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """Copy images out of a mapped file, uint8 [n, 3, S, S]."""
    return torch.from_numpy(np.array(images[np.asarray(indices, dtype=np.int64)]))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep other processes from making a file, and clear away what a killed one has left of it."""
    with fileio.exclusive_lock(path.with_suffix(".lock"), patience=-1):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
        yield


def open_memmap(path: Path, *, count: int, size: int) -> np.ndarray | None:
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


_JPEG_QUALITY = 75


def quantise(dataset: ImageDataset, images: Tensor, *, how: str) -> Tensor:
    """Turn canonical images [N, 3, S, S] into uint8 RGB on the CPU.

    Args:
        dataset: Gives the pixel space.
        images: The images.
        how: `exact`: rounded to the nearest level. `jpeg75`: cut off, compressed as JPEG of
            quality 75 and read back, as what the published PRISM program stores.
    """
    if how == "png":
        return dataset.bytes_of(images).cpu()
    cut_off = dataset.bytes_of(images, rounded=False).cpu()
    return torch.stack([_through_jpeg(image) for image in cut_off])


def encode_png(image: Tensor) -> bytes:
    """Encode a uint8 RGB image [3, H, W] as PNG."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def _through_jpeg(image: Tensor) -> Tensor:
    buffer = BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    with Image.open(buffer) as stored:
        return torch.from_numpy(np.array(stored.convert("RGB"))).permute(2, 0, 1)
