"""Image files: every mode, orientation and kind of damage; encoding; the decode cache."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from prism_nb.core.errors import PrismError
from prism_nb.data.image_io import (
    DECODE_ERRORS,
    IMAGENET_MARGIN,
    cached_decode,
    gather,
    quantize,
    read_exact,
    read_image,
    read_images,
    resize_center_crop,
)
from prism_nb.data.small import Digits
from tests.helpers.image_trees import picture

_ORIENTATION = 0x0112
_TURNS = {  # what each EXIF orientation does to the stored pixels, by rows and columns
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


def literal(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize and crop RGB pixels as ImageNet's evaluation does, by torchvision."""
    steps = Compose([Resize(round(size * 256 / 224), InterpolationMode.BICUBIC), CenterCrop(size)])
    return np.asarray(steps(Image.fromarray(np.ascontiguousarray(pixels))))


# -- decoding --------------------------------------------------------------------------------


@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(8, 40))
@settings(max_examples=150, deadline=None)
def test_resizing_and_cropping_are_torchvisions(width: int, height: int, size: int) -> None:
    image = picture(width * 100 + height, width, height)
    mine = np.asarray(resize_center_crop(image, size, IMAGENET_MARGIN))
    assert mine.shape == (size, size, 3)
    assert (mine == literal(np.asarray(image), size)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    image, exif = picture(1, 24, 16), Image.Exif()
    exif[_ORIENTATION] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    expected = literal(_TURNS[orientation](stored), 14)
    assert (read_image(tmp_path / "a.jpg", 14) == expected).all()


def over_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., -1:] / 255
    return pixels[..., :-1] * alpha + 255 * (1 - alpha)


def palette_image() -> Image.Image:
    """Return an image whose upper half is of a transparent colour."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 32, 16))
    image.info["transparency"] = 0
    return image


GREY = picture(3, 32, 32, "L").point(lambda v: 255 if v > 99 else 0)
DEEP = np.random.default_rng(5).integers(0, 65536, (32, 32)).astype(np.uint16)


@pytest.mark.parametrize(
    ("image", "suffix", "expected", "tolerance"),
    [
        (picture(2, 32, 32, "RGBA"), "png", over_white, 1),
        (picture(2, 32, 32, "LA"), "png", over_white, 1),
        (palette_image(), "png", lambda a: np.array([[255] * 3, [200, 100, 50]])[a], 0),
        (GREY.convert("1"), "png", lambda a: 255 * a[..., None], 0),
        (GREY, "png", lambda a: a[..., None], 0),
        (GREY.convert("P"), "png", lambda a: a[..., None], 0),
        (Image.fromarray(DEEP), "png", lambda a: a[..., None] // 256, 0),
        (Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "jpg", lambda a: 255 - a[..., :3], 3),
        (picture(6, 32, 32), "webp", lambda a: a, 0),
    ],
)
def test_images_of_every_mode_become_rgb(
    tmp_path: Path,
    image: Image.Image,
    suffix: str,
    expected: Callable[[np.ndarray], np.ndarray],
    tolerance: int,
) -> None:
    path = tmp_path / f"a.{suffix}"
    image.save(path, quality=95, lossless=True)
    found = read_image(path, 28).astype(float)
    assert np.abs(found - expected(np.asarray(image))[2:30, 2:30]).max() <= tolerance
    wrong = path.rename(tmp_path / "b.tiff")
    assert (read_image(wrong, 28) == found).all()


@pytest.mark.parametrize(
    ("tag", "kind", "count", "tail"),
    [
        (0x013C, 5, 1, struct.pack("<II", 1, 2)),  # HostComputer as a fraction
        (0x0115, 2, 6, b"three\0"),  # SamplesPerPixel as text
        (0x0132, 3, 1, b""),  # DateTime as a number
        (0x8825, 4, 1, b""),  # GPS data behind the end
        (0x9000, 13, 9, b""),
        (0x011A, 5, 2**30, b""),
    ],
)
@pytest.mark.parametrize("prefix", [b"Exif\0\0", b"Exif\0\0Exif\0\0"])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_image_is_turned_whatever_else_exif_holds(
    tmp_path: Path, tag: int, kind: int, count: int, tail: bytes, prefix: bytes, suffix: str
) -> None:
    turn = struct.pack("<HHIHH", _ORIENTATION, 3, 1, 6, 0)
    other = struct.pack("<HHII", tag, kind, count, 38)
    exif = prefix + b"II*\0\x08\0\0\0\x02\0" + turn + other + bytes(4) + tail
    path = tmp_path / f"a.{suffix}"
    picture(9, 24, 16).save(path, exif=exif, lossless=True)
    stored = np.asarray(Image.open(path).convert("RGB"))
    assert (read_image(path, 14) == literal(_TURNS[6](stored), 14)).all()


def test_a_png_may_hold_megabytes_of_text(tmp_path: Path) -> None:
    texts = PngInfo()
    for place in range(3):
        texts.add_text(f"workflow {place}", "x" * 3_000_000, zip=True)
    picture(1, 20, 20).save(tmp_path / "plain.png")
    picture(1, 20, 20).save(tmp_path / "texts.png", pnginfo=texts)
    expected = read_image(tmp_path / "plain.png", 12)
    assert (read_image(tmp_path / "texts.png", 12) == expected).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(7, 64, 64).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(PrismError, match=rf"a\.{suffix} cannot be decoded"):
        read_image(path, 16)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_images_come_in_the_order_asked_for(tmp_path: Path, threads: int) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for i, path in enumerate(paths):
        picture(i, 20 + i, 20).save(path)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        asked = [paths[i] for i in (8, 0, 3, 3)]
        found = read_images(asked, 16)
    finally:
        torch.set_num_threads(before)
    assert found.dtype == torch.uint8
    expected = np.stack([read_image(path, 16) for path in asked])
    assert (found.permute(0, 2, 3, 1).numpy() == expected).all()
    assert read_images([], 16).shape == (0, 3, 16, 16)


# -- decoding without choices ----------------------------------------------------------------


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer


def test_opaque_palette_and_grey_images_become_rgb() -> None:
    grey = Image.new("L", (16, 16), 77)
    for image in (grey, grey.convert("RGBA"), grey.convert("P"), grey.convert("LA")):
        assert torch.equal(read_exact(file_of(image), 16), torch.full((3, 16, 16), 77).byte())


def test_exif_turns_an_image_and_a_cameras_second_frame_is_no_animation() -> None:
    image, turn = picture(2, 16, 16), struct.pack("<HHIHH", _ORIENTATION, 3, 1, 6, 0)
    mistyped = struct.pack("<HHII", 0x013C, 5, 1, 38)  # HostComputer as a fraction
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + turn + mistyped + bytes(4) + bytes(8)
    expected = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    turned = read_exact(file_of(image, exif=exif), 16)
    assert (turned.permute(1, 2, 0).numpy() == expected).all()
    frames = file_of(image, "MPO", save_all=True, append_images=[picture(3, 16, 16)])
    expected = np.asarray(Image.open(file_of(image, "JPEG")))
    assert (read_exact(frames, 16).permute(1, 2, 0).numpy() == expected).all()


def test_fitting_keeps_proportions_and_crops_the_centre() -> None:
    wide = Image.new("RGB", (32, 16))
    wide.paste((255, 255, 255), (8, 0, 24, 16))
    found = read_exact(file_of(wide), 16, resize=True)
    assert torch.equal(found, torch.full((3, 16, 16), 255).byte())


FRAMES = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (10, 200)]


def png_that_claims(width: int, height: int) -> io.BytesIO:
    """Return a PNG whose header claims a size that its data do not have."""
    content = file_of(picture(1, 16, 16)).getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return io.BytesIO(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (io.BytesIO(), "."),
        (io.BytesIO(b"no image at all"), "."),
        (io.BytesIO(file_of(picture(1, 16, 16)).getvalue()[:200]), "."),
        (file_of(picture(1, 16, 16), "GIF"), "."),
        (file_of(picture(1, 16, 16), "BMP"), "."),
        (png_that_claims(10_000, 10_000), "."),
        (png_that_claims(60_000, 60_000), "decompression bomb"),
        (file_of(Image.new("RGBA", (16, 16), (1, 2, 3, 254))), "transparent"),
        (file_of(Image.new("LA", (16, 16), (1, 0))), "transparent"),
        (file_of(Image.new("I;16", (16, 16), 700)), "more than 8 bits"),
        (file_of(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "animated"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_and_ambiguous_images_are_refused(file: io.BytesIO, message: str) -> None:
    with pytest.raises(DECODE_ERRORS, match=message):
        read_exact(file, 16, resize=True)


# -- storing ---------------------------------------------------------------------------------

DIGITS = Digits(32)


def noisy() -> tuple[Tensor, np.ndarray]:
    """Return canonical images and the levels that they mean, some of them out of range."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = (images.double().numpy() * DIGITS.std[0] + DIGITS.mean[0]) * 255
    assert (levels < 0).any()
    assert (levels > 255).any()
    return images, levels


def test_png_pixels_are_rounded_to_the_nearest_level() -> None:
    images, levels = noisy()
    stored = quantize(DIGITS, images, mode="png")
    assert stored.dtype == torch.uint8
    assert np.abs(stored.numpy() - np.clip(levels, 0, 255)).max() < 0.5 + 1e-4


def test_published_pixels_are_truncated_and_read_back_from_jpeg() -> None:
    images, levels = noisy()
    stored = quantize(DIGITS, images, mode="jpeg75")
    truncated = np.floor(np.clip(levels, 0, 255)).astype(np.uint8)
    for image, whole in zip(stored, truncated, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(whole.transpose(1, 2, 0)).save(buffer, "JPEG", quality=75)
        expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
        assert (image.numpy().transpose(1, 2, 0) == expected).all()
    error = stored.numpy().astype(float) - truncated
    assert np.sqrt((error**2).mean()) > 5  # noise survives JPEG badly


# -- the decode cache ------------------------------------------------------------------------

PIXELS = torch.arange(300 * 3 * 4 * 4).remainder(251).to(torch.uint8).view(300, 3, 4, 4)


def decode(indices: Sequence[int]) -> Tensor:
    return PIXELS[torch.as_tensor(indices)]


def never(indices: Sequence[int]) -> Tensor:
    raise AssertionError("decoded a second time")


def cached(path: Path, decode_some: object = decode) -> np.ndarray:
    return cached_decode(path, decode_some, shape=(300, 3, 4, 4), what="images", progress=False)


def test_images_are_decoded_once_and_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    found = cached(path)
    assert (found == PIXELS.numpy()).all()
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    again = cached(path, never)
    gathered = gather(again, [299, 0, 256, 0])
    assert torch.equal(gathered, PIXELS[[299, 0, 256, 0]])
    gathered.zero_()  # a copy
    assert (np.load(path, allow_pickle=False) == PIXELS.numpy()).all()


def test_a_truncated_file_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cached(path)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-1], b"x" * len(whole)):
        path.write_bytes(broken)
        assert (cached(path) == PIXELS.numpy()).all()
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PrismError("image 256 cannot be decoded"), "image 256"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_failure_on_the_way_leaves_no_file(tmp_path: Path, error: Exception, raised: str) -> None:
    def fails(indices: Sequence[int]) -> Tensor:
        if indices[0]:
            raise error
        return decode(indices)

    with pytest.raises(PrismError, match=raised):
        cached(tmp_path / "a.npy", fails)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.lock"}


def test_leftovers_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    (tmp_path / ".a.npy.0123abcd.part").write_bytes(b"x" * 99)
    (tmp_path / ".b.npy.0123abcd.part").write_bytes(b"another file's")
    cached(tmp_path / "a.npy")
    assert [path.name for path in tmp_path.glob(".*.part")] == [".b.npy.0123abcd.part"]


def test_several_who_want_one_file_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []
    all_wait = threading.Barrier(3)

    def count(indices: Sequence[int]) -> Tensor:
        calls.append(indices[0])
        return decode(indices)

    def ask(_: int) -> np.ndarray:
        all_wait.wait()
        return cached(tmp_path / "a.npy", count)

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(ask, range(3)))
    assert calls == [0, 256]
    assert all((each == PIXELS.numpy()).all() for each in found)
