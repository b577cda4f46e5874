"""Image files as square RGB bytes: every mode, orientation and kind of damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from prism_nb.core.errors import PrismError
from prism_nb.data.image_io import (
    IMAGENET_MARGIN,
    CorruptImageError,
    read_image,
    read_images,
    resize_center_crop,
)
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


@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(8, 40))
@settings(max_examples=150, deadline=None)
def test_resizing_and_cropping_are_torchvisions(width: int, height: int, size: int) -> None:
    image = picture(width * 100 + height, width, height)
    mine = np.asarray(resize_center_crop(image, size, IMAGENET_MARGIN))
    assert mine.shape == (size, size, 3)
    assert (mine == literal(np.asarray(image), size)).all()


def test_the_published_size_is_256_and_224(tmp_path: Path) -> None:
    picture(0, 400, 256).save(tmp_path / "a.png")
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    assert (read_image(tmp_path / "a.png", 224) == stored[16:240, 88:312]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    image, exif = picture(1, 24, 16), Image.Exif()
    exif[_ORIENTATION] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    expected = literal(_TURNS[orientation](stored), 14)
    assert (read_image(tmp_path / "a.jpg", 14) == expected).all()


def test_transparent_parts_lie_over_white(tmp_path: Path) -> None:
    pixels = np.asarray(picture(2, 32, 32, "RGBA"))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = pixels[..., 3:].astype(np.float64) / 255
    over = pixels[..., :3] * alpha + 255 * (1 - alpha)
    mine = read_image(tmp_path / "a.png", 28).astype(np.float64)
    assert np.abs(mine - over[2:30, 2:30]).max() <= 1


def test_a_palette_with_a_transparent_colour_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 16, 8))
    image.save(tmp_path / "a.png", transparency=0)
    mine = read_image(tmp_path / "a.png", 14)
    assert (mine[0, 0] == 255).all()
    assert mine[13, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_two_tone_and_palette_images_keep_their_colours(tmp_path: Path, mode: str) -> None:
    grey = picture(3, 16, 16, "L").point(lambda v: 255 if v > 99 else 0)
    grey.convert(mode).save(tmp_path / "a.png")
    expected = literal(np.repeat(np.asarray(grey)[..., None], 3, axis=2), 14)
    assert (read_image(tmp_path / "a.png", 14) == expected).all()


def test_grey_with_alpha_lies_over_white(tmp_path: Path) -> None:
    pixels = np.asarray(picture(4, 32, 32, "LA")).astype(np.float64)
    picture(4, 32, 32, "LA").save(tmp_path / "a.png")
    over = pixels[..., 0] * pixels[..., 1] / 255 + 255 - pixels[..., 1]
    mine = read_image(tmp_path / "a.png", 28)
    assert np.abs(mine - over[2:30, 2:30, None]).max() <= 1


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    levels = np.random.default_rng(5).integers(0, 65536, (32, 32)).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    mine = read_image(tmp_path / "a.png", 28)
    assert (mine == (levels // 256)[2:30, 2:30, None]).all()


def test_cmyk_becomes_the_colours_it_prints(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    ink.save(tmp_path / "a.jpg", quality=95)
    mine = read_image(tmp_path / "a.jpg", 28).astype(int)
    assert np.abs(mine - [255, 0, 0]).max() <= 3


def test_webp_and_a_wrong_ending_are_read_by_content(tmp_path: Path) -> None:
    image = picture(6, 32, 32)
    image.save(tmp_path / "a.webp", lossless=True)
    image.save(tmp_path / "b.JPEG", format="PNG")
    cut = np.asarray(image)[2:30, 2:30]
    assert (read_image(tmp_path / "a.webp", 28) == cut).all()
    assert (read_image(tmp_path / "b.JPEG", 28) == cut).all()


def test_one_pixel_fills_the_square(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 12) == [9, 8, 7]).all()


def test_a_strip_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    Image.new("RGB", (1, 200)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 12).shape == (12, 12, 3)
    Image.new("RGB", (201, 1)).save(tmp_path / "b.png")
    with pytest.raises(CorruptImageError, match=r"b\.png .*201 x 1 pixels"):
        read_image(tmp_path / "b.png", 12)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@given(exif=st.binary(max_size=120), head=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*", b""]))
@settings(max_examples=150, deadline=None)
def test_a_broken_exif_block_costs_no_image(
    tmp_path_factory: pytest.TempPathFactory, exif: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "exif.jpg"
    picture(8, 20, 20).save(path, exif=b"Exif\0\0" + head + exif)
    assert read_image(path, 12).shape == (12, 12, 3)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_file_cut_off_is_named(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"a.{ending}"
    picture(7, 64, 64).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CorruptImageError, match=rf"a\.{ending} cannot be decoded.*skip_corrupt"):
        read_image(path, 16)


@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG"]))
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_more_than_their_own_image(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "no_image"
    path.write_bytes(head + content)
    with pytest.raises(PrismError, match="no_image"):
        read_image(path, 8)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptImageError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg", 8)


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
    assert found.shape == (4, 3, 16, 16)
    assert found.dtype == torch.uint8
    for image, path in zip(found, asked, strict=True):
        assert (image.permute(1, 2, 0).numpy() == read_image(path, 16)).all()


def test_no_images_are_an_empty_batch() -> None:
    assert read_images([], 16).shape == (0, 3, 16, 16)
