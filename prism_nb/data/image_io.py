"""Image files: decoding to square RGB, encoding, and the cache of decoded images."""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

IMAGENET_MARGIN = 256 / 224  # shorter side over crop in the published evaluation of ImageNet
_MAX_ASPECT = 200  # resizing a longer strip would take gigabytes
# What Pillow raises on files that are damaged, truncated, no image at all or absurdly large.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class CorruptImageError(PrismError):
    """An image file that cannot be decoded."""


def read_image(path: Path, size: int, margin: float = IMAGENET_MARGIN) -> np.ndarray:
    """Decode an image file as square RGB.

    EXIF orientation is applied. Transparency is composited over white; greyscale, palette and
    CMYK become RGB as Pillow converts them; 16-bit grey keeps its upper eight bits; of an
    animation, the first frame is taken. See `resize_center_crop` for the geometry.

    Args:
        path: A JPEG, PNG or WebP file, with any suffix.
        size: Side of the square, in pixels.
        margin: Shorter side before cropping, divided by `size`; at least 1.

    Returns:
        uint8 [size, size, 3].

    Raises:
        CorruptImageError: The file cannot be read or decoded; it is named.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(resize_center_crop(to_rgb(upright), size, margin))
    except DECODE_ERRORS as error:
        raise CorruptImageError(
            f"image {path} cannot be decoded: {error}; restore the file as it was when the run "
            "began, or begin another run: with a repaired file, or with skip_corrupt set to true, "
            "which leaves damaged images out"
        ) from None


def read_images(paths: Sequence[Path], size: int, margin: float = IMAGENET_MARGIN) -> Tensor:
    """Decode images as `read_image` does, uint8 [n, 3, size, size].

    As many threads decode as torch computes with, so that parallel workers share the cores.
    """
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)

    def read(index: int) -> None:
        pixels[index] = read_image(paths[index], size, margin)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for _ in threads.map(read, range(len(paths))):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, composited over white where it is transparent."""
    if image.mode.startswith("I;16"):
        return image.point(lambda level: level / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def resize_center_crop(image: Image.Image, size: int, margin: float) -> Image.Image:
    """Resize the shorter side to round(size * margin) (bicubic, antialiased); crop the centre.

    Raises:
        ValueError: One side is more than 200 times the other.
    """
    shorter = round(size * margin)
    least = min(image.size)
    if max(image.size) > least * _MAX_ASPECT:
        raise ValueError(f"it is {image.width} x {image.height} pixels, a mere strip")
    width, height = (shorter * side // least for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))


def encode_image(image: Tensor | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Encode an image.

    Args:
        image: uint8 RGB [3, H, W] on the CPU, or a Pillow image.
        kind: `PNG` or another format of Pillow.
        options: Options of Pillow's writer, e.g. `quality` of JPEG.
    """
    if isinstance(image, Tensor):
        image = Image.fromarray(image.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def quantize(dataset: ImageDataset, images: Tensor, *, mode: str) -> Tensor:
    """Turn canonical images [N, 3, S, S] into uint8 RGB on the CPU.

    Args:
        dataset: Decides the pixel space.
        images: The images.
        mode: `png`: rounded to the nearest level. `jpeg75`: truncated, then compressed as JPEG of
            quality 75 and decoded, equal to what the published PRISM program stores.
    """
    if mode == "png":
        return dataset.to_uint8(images).cpu()
    truncated = dataset.to_uint8(images, rounded=False).cpu()
    return torch.stack([_jpeg_roundtrip(image) for image in truncated])


def _jpeg_roundtrip(image: Tensor) -> Tensor:
    with Image.open(io.BytesIO(encode_image(image, "JPEG", quality=75))) as stored:
        return torch.from_numpy(np.array(stored.convert("RGB"))).permute(2, 0, 1)


_CHUNK = 256  # images
_HEADROOM = 1.02  # of the space needed, so that a full disk is refused before hours of decoding


def cached_decode(
    path: Path,
    decode: Callable[[Sequence[int]], Tensor],
    *,
    count: int,
    size: int,
    what: str,
    progress: bool = True,
) -> np.ndarray:
    """Return images from a memory-mapped `.npy` file, which is made if it is missing.

    The operating system decides which of its pages stay in memory. A second process that needs
    the same file waits for the first. A file of the right shape is trusted, since it is written
    atomically.

    Args:
        path: The file; its name must depend on everything that decides its content.
        decode: Maps indices to images, uint8 [n, 3, size, size].
        count: Number of images.
        size: Their side, in pixels.
        what: Description of the images for messages.
        progress: Whether to show a bar.

    Returns:
        uint8 [count, 3, size, size], read-only.

    Raises:
        PrismError: The disk is too small or may not be written, or an image is damaged; no file
            is left then.
    """
    shape = (count, 3, size, size)
    cached = open_memmap(path, count=count, size=size)
    if cached is not None:
        return cached
    with _locked(path):
        if open_memmap(path, count=count, size=size) is None:
            _check_space(path, shape, what)
            title = f"decoding {count} {what} once, {np.prod(shape) / 1e9:.2f} GB in {path.parent}"
            fileio.write_chunks(path, _npy_chunks(decode, shape, title if progress else None))
    cached = open_memmap(path, count=count, size=size)
    if cached is None:
        raise PrismError(f"{path} was just written but cannot be read; check the disk")
    return cached


def open_memmap(path: Path, *, count: int, size: int) -> np.ndarray | None:
    """Return a file of `cached_decode`, or None if it is missing or truncated."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (count, 3, size, size) and found.dtype == np.uint8 else None


def gather(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """Copy images out of a memory-mapped array, uint8 [n, 3, S, S]."""
    return torch.from_numpy(np.array(images[np.asarray(indices, dtype=np.int64)]))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, and delete what killed processes have left of it."""
    with fileio.exclusive_lock(path.with_suffix(".lock"), timeout=-1):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
        yield


def _npy_chunks(
    decode: Callable[[Sequence[int]], Tensor], shape: tuple[int, ...], title: str | None
) -> Iterator[bytes]:
    """Yield the bytes of a `.npy` file of images, chunk by chunk."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    yield header.getvalue()
    starts = range(0, shape[0], _CHUNK)
    for start in tqdm(starts, title, disable=title is None, mininterval=2, leave=False):
        images = decode(range(start, min(start + _CHUNK, shape[0])))
        yield images.contiguous().numpy().tobytes()


def _check_space(path: Path, shape: tuple[int, ...], what: str) -> None:
    needed, free = float(np.prod(shape)) * _HEADROOM, shutil.disk_usage(path.parent).free
    if needed > free:
        raise PrismError(
            f"the decoded {what} take {needed / 1e9:.1f} GB in {path.parent}, where "
            f"{free / 1e9:.1f} GB are free; free some space, or set PRISM_CACHE to a folder on a "
            "larger disk and run the same command again"
        )
