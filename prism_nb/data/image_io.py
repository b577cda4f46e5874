"""Image files: decoding to square RGB, encoding, and the cache of decoded images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from torch import Tensor
from tqdm import tqdm

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.data.dataset import ImageDataset

IMAGENET_MARGIN = 256 / 224  # shorter side over crop in the published evaluation of ImageNet
DECODE_ERRORS = Exception  # Pillow raises almost anything on files that are damaged or no images
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Limits of the texts in a PNG, which may be megabytes (EXIF, XMP, workflows) around sound pixels.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28
_PLAIN_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "CMYK"}  # of at most 8 bits per channel
_CHUNK = 256  # images decoded between two writes


class DamagedImageError(PrismError):
    """An image file that is readable, but cannot be decoded."""


def read_image(path: Path, size: int, margin: float = IMAGENET_MARGIN) -> np.ndarray:
    """Decode an image file, which EXIF may rotate, as square RGB, uint8 [size, size, 3].

    It is a JPEG, PNG or WebP file, with any suffix; `margin`, at least 1, is the shorter side
    before the centre crop, divided by `size`.

    Raises:
        PrismError: The file cannot be read or, a DamagedImageError, decoded; it is named.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(resize_center_crop(to_rgb(upright(image)), size, margin))
    except DECODE_ERRORS as error:
        raise decode_error(path, error) from None


def decode_error(path: Path, error: Exception) -> PrismError:
    """Return the error to raise for a file that cannot be read or, a DamagedImageError, decoded."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
        return PrismError(
            f"image {path} cannot be read: {error}; run the same command again once it can"
        )
    return DamagedImageError(
        f"image {path} cannot be decoded: {error}; restore it, or begin another run without it "
        "(skip_damaged leaves all such files out)"
    )


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as EXIF asks for; what else is in EXIF may be broken."""
    image.load()  # PNG may hold EXIF behind the pixels
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODE_ERRORS:
        return image
    return image if turn is None else image.transpose(turn)


def read_images(paths: Sequence[Path], size: int, margin: float = IMAGENET_MARGIN) -> Tensor:
    """Decode images as `read_image` does, uint8 [n, 3, size, size].

    As many threads decode as torch computes with, so that parallel workers share the cores.
    """
    pixels = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    decode = partial(read_image, size=size, margin=margin)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for row, image in enumerate(threads.map(decode, paths)):
            pixels[row] = image
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def are_whole(paths: Sequence[Path], *, progress: bool) -> list[bool]:
    """Return whether each image file can be decoded; one that cannot be read is an error."""

    def is_whole(path: Path) -> bool:
        try:
            read_image(path, 8, 1.0)
        except DamagedImageError:
            return False
        return True

    starts = range(0, len(paths), _CHUNK)
    bar = tqdm(starts, "trying all images", disable=not progress, mininterval=2, leave=False)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return [each for at in bar for each in threads.map(is_whole, paths[at : at + _CHUNK])]


def read_exact(file: Path | BinaryIO, size: int, *, resize: bool = False) -> Tensor:
    """Decode an image, which EXIF may rotate, as it is, uint8 RGB [3, size, size].

    With `resize`, an image of another size is scaled (bicubic) to cover the square, and cropped at
    its centre; otherwise it is refused.

    Raises:
        DECODE_ERRORS: The image is damaged, of another size, animated, transparent, or of more
            than 8 bits per channel.
    """
    with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
        if image.size != (size, size) and not resize:
            raise ValueError(f"it is {image.width} x {image.height}, not {size} pixels square")
        # The further frames of an MPO file, which cameras write as .jpg, are no animation.
        is_animated = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
        if is_animated or image.mode not in _PLAIN_MODES or _is_clear(image):
            raise ValueError("it is animated, transparent, or has more than 8 bits per channel")
        rgb = to_rgb(upright(image))
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _is_clear(image: Image.Image) -> bool:
    """Return whether any pixel is transparent."""
    if not image.has_transparency_data:
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB.

    Transparency is composited over white; 16-bit grey keeps its upper eight bits.
    """
    if image.mode.startswith("I;16"):
        return image.point(lambda level: level / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def resize_center_crop(image: Image.Image, size: int, margin: float) -> Image.Image:
    """Resize the shorter side to round(size * margin) (bicubic, antialiased); crop the centre."""
    shorter, least = round(size * margin), min(image.size)
    width, height = (shorter * side // least for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized.size)
    return resized.crop((left, top, left + size, top + size))


def encode_image(image: Tensor | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Encode an image.

    It is a Pillow image, or uint8 RGB [3, H, W] on the CPU; kind and options are those of Pillow's
    writer.
    """
    if isinstance(image, Tensor):
        image = Image.fromarray(image.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def quantize(dataset: ImageDataset, images: Tensor, *, mode: str) -> Tensor:
    """Turn canonical images [N, 3, S, S] into uint8 RGB on the CPU.

    `mode` is `png`: rounded to the nearest level, or `jpeg75`: truncated, then compressed as JPEG
    of quality 75 and decoded, equal to what the published PRISM program stores.
    """
    if mode == "png":
        return dataset.to_uint8(images).cpu()
    truncated = dataset.to_uint8(images, rounded=False).cpu()
    size = images.shape[-1]
    jpegs = [encode_image(image, "JPEG", quality=75) for image in truncated]
    return torch.stack([read_exact(io.BytesIO(jpeg), size) for jpeg in jpegs])


def cached_decode(
    path: Path,
    decode: Callable[[Sequence[int]], Tensor],
    *,
    shape: tuple[int, ...],
    what: str,
    progress: bool,
) -> np.ndarray:
    """Return images from a memory-mapped `.npy` file, which is made if it is missing.

    The operating system decides which of its pages stay in memory. A second process that needs the
    same file waits for the first. A file of the right shape is trusted, since it is written
    atomically. The file's name must depend on everything that decides its content. `decode` maps
    indices to images, uint8 [n, 3, S, S]; `what` describes these in the progress bar.

    Returns:
        uint8 [N, 3, S, S], read-only.

    Raises:
        PrismError: The disk is too small or may not be written, or an image is damaged; no file
            is left then.
    """
    cached = open_memmap(path, shape)
    if cached is not None:
        return cached
    with fileio.exclusive_lock(path.with_suffix(".lock"), timeout=-1):
        cached = open_memmap(path, shape)
        if cached is None:
            for part in path.parent.glob(f".{path.name}.*.part"):  # of processes that were killed
                part.unlink(missing_ok=True)
            title = f"decoding {shape[0]} {what} once, {np.prod(shape) / 1e9:.2f} GB"
            chunks = _npy_chunks(decode, shape, title if progress else None)
            fileio.atomic_write(path, lambda file: file.writelines(chunks))
            cached = np.load(path, mmap_mode="r")
    return cached


def open_memmap(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a file of `cached_decode`, or None if it is missing or truncated."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None


def gather(images: np.ndarray, indices: Sequence[int]) -> Tensor:
    """Copy images out of a memory-mapped array, uint8 [n, 3, S, S]."""
    return torch.from_numpy(images[np.asarray(indices, dtype=np.int64)])


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
