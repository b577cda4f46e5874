"""Distilled sets made elsewhere: every layout is read, and a set that does not fit is refused."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prism_nb.core.config import build_settings, load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import method_fingerprint
from prism_nb.data import imported
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.imported import (
    ImageArchive,
    ImportedSet,
    decode_image,
    find_images,
    imported_set,
    infer_ipc,
)
from prism_nb.data.registry import open_dataset
from tests.helpers.image_sets import SIZE, picture, write_set

PUBLISHED = "new{c:03d}/class{c:03d}_id{s:03d}.png"
OWN = "{c:05d}/{c:05d}_{s:04d}.png"
NAMED = "{c}/photo-{s}.png"


def settings_of(path: Path, *, ipc: int = 2, **own: object) -> Settings:
    recipes = {"imported": {"source": str(path), **own}}
    changes = {"methods": ["imported"], "recipes": recipes, "ipc": ipc, "image_size": SIZE}
    return load_settings("digits_quick", changes)


def open_set(path: Path, **changes: object) -> ImportedSet:
    settings = settings_of(path, **changes)
    return imported_set(settings, "imported", open_dataset(settings))


def pixels_of(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


# -- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [PUBLISHED, OWN, NAMED, "images/" + OWN, "sre2l_ipc2/" + PUBLISHED]
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_is_read_pixel_by_pixel(tmp_path: Path, name: str, packed: bool) -> None:
    path = write_set(tmp_path / "set", name, ipc=2)
    path = zipped(tmp_path / "set.zip", path) if packed else path
    keys = [(c, s) for c in range(10) for s in range(2)]
    pixels, _ = open_set(path).images(keys)
    assert torch.equal(pixels, torch.stack([pixels_of(picture(100 * c + s)) for c, s in keys]))
    assert infer_ipc(path, open_dataset(settings_of(path))) == 2


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("JPEG", "JPEG"), ("WEBP", "webp")])
def test_other_formats_are_decoded_as_pillow_does(kind: str, suffix: str, tmp_path: Path) -> None:
    for c in range(10):
        path = tmp_path / f"new{c:03d}" / f"class{c:03d}_id000.{suffix}"
        path.parent.mkdir()
        path.write_bytes(picture(c, kind=kind))
    pixels, _ = open_set(tmp_path, ipc=1).images([(7, 0)])
    assert torch.equal(pixels[0], pixels_of(picture(7, kind=kind)))


class Names(ImageArchive):
    """An archive that is nothing but names."""

    def __init__(self, *names: str) -> None:
        self.path, self.names = Path("/set"), sorted(names)


def infos(*folders: str) -> list[ClassInfo]:
    return [ClassInfo(index, folder, f"name {index}") for index, folder in enumerate(folders)]


def test_numbers_are_ordered_as_numbers_and_names_as_text() -> None:
    archive = Names("new000/class000_id1000.png", "new000/class000_id999.png")
    _, files = find_images(archive, infos("a"))
    assert files == (("new000/class000_id999.png", "new000/class000_id1000.png"),)
    _, files = find_images(Names("a/10.png", "a/9.png"), infos("a"))
    assert files == (("a/10.png", "a/9.png"),)


@given(st.permutations(range(12)), st.sampled_from([PUBLISHED, OWN, "n{c:04d}/x{s}.jpg"]))
def test_every_image_is_found_once_in_its_own_class(order: list[int], name: str) -> None:
    classes = infos("n0002", "n0000", "n0001", "n0003")
    class_of = {info.folder: info.index for info in classes}
    members = [(index % 4, index // 4) for index in order]
    _, files = find_images(Names(*(name.format(c=c, s=s) for c, s in members)), classes)
    for index, group in enumerate(files):
        assert len(group) == 3
        for number, found in enumerate(group):
            folder = found.split("/")[0]
            assert class_of.get(folder, int(folder.lstrip("new"))) == index
            assert re.search(rf"(x|_id00|_000){number}\.", found)


def test_the_record_has_the_hash_of_the_files_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1)
    _, record = open_set(folder, ipc=1).images([(3, 0), (1, 0)])
    digest = hashlib.sha256()
    for index in (3, 1):
        content = picture(100 * index)
        digest.update(f"{index}/photo-0.png\n{len(content)}\n".encode() + content)
    assert record == {
        "source": str(folder),
        "layout": "folders named as the classes",
        "source_sha256": digest.hexdigest(),
    }


def test_litter_and_descriptions_are_no_images(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    (folder / "__MACOSX").mkdir()
    for name in ("new000/.DS_Store", "new000/._x.png", "__MACOSX/y.png", "README.md", "card.md"):
        (folder / name).write_text("words")
    assert [len(names) for names in open_set(folder).files] == [2] * 10


def test_one_folder_around_everything_is_skipped_and_two_are_not() -> None:
    classes = infos("a", "b")
    _, files = find_images(Names("top/a/0.png", "top/b/0.png", "top/README.md"), classes)
    assert files == (("top/a/0.png",), ("top/b/0.png",))
    with pytest.raises(UsageError, match=r"train/a/0.png does not lie in a class folder"):
        find_images(Names("train/a/0.png", "val/a/0.png"), classes)


def test_folders_that_mean_two_classes_are_refused() -> None:
    names = ("00000/00000_0000.png", "00001/00001_0000.png")
    with pytest.raises(UsageError, match="class 1 by its name and 0 by its number"):
        find_images(Names(*names), infos("00001", "00000"))
    _, files = find_images(Names(*names), infos("00000", "00001"))
    assert files == ((names[0],), (names[1],))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "new004" / "class004_id001.png").unlink(), "has 1 images of class 4"),
        (lambda f: (f / "new003" / "notes.txt").write_text("?"), r"new003/notes.txt is no image"),
        (lambda f: (f / "new009").rename(f / "new010"), "'new010' is none of the 10 classes"),
        (lambda f: (f / "new009").rename(f / "nine"), "is no class of the dataset; name all"),
        (
            lambda f: (f / "new001" / "class001_id000.png").rename(
                f / "new001" / "class002_id000.png"
            ),
            r"new001/class002_id000.png is not named as an image of its class",
        ),
        (
            lambda f: (f / "new002" / "class002_id0001.png").write_bytes(picture(1)),
            "are both image 1 of one class",
        ),
        (lambda f: (f / "new000").rename(f / "new001" / "new000"), "not lie in a class folder"),
        (lambda f: (f / "classes.json").write_text("{}"), "must hold a list"),
        (lambda f: (f / "classes.json").write_text("[" * 100_000), r"classes.json is damaged"),
        (
            lambda f: (f / "classes.json").write_text(
                '[{"index": 0, "folder": "0", "name": "zero"}]'
            ),
            r"the classes differ at index 1: classes.json has None",
        ),
    ],
)
def test_a_set_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    change(folder)
    with pytest.raises(UsageError, match=message):
        open_set(folder)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        open_set(tmp_path)
    with pytest.raises(UsageError, match="no folder or archive at"):
        open_set(tmp_path / "nowhere")


# -- pixels ----------------------------------------------------------------------------------


def png_of(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def test_another_size_is_fitted_only_on_request(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1)
    (folder / "3" / "photo-0.png").write_bytes(picture(7, size=24))
    with pytest.raises(UsageError, match=r"3/photo-0.png is 24 x 24 pixels, but image_size is 16"):
        open_set(folder, ipc=1).images([(3, 0)])
    pixels, _ = open_set(folder, ipc=1, resize=True).images([(3, 0)])
    with Image.open(io.BytesIO(picture(7, size=24))) as image:
        fitted = np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert (pixels[0].permute(1, 2, 0).numpy() == fitted).all()


def test_fitting_keeps_proportions_and_crops_the_centre() -> None:
    wide = Image.new("RGB", (32, 16))
    wide.paste((255, 255, 255), (8, 0, 24, 16))
    found = decode_image(png_of(wide), name="wide", size=16, resize=True)
    assert torch.equal(found, torch.full((3, 16, 16), 255, dtype=torch.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"no image at all",
        b"",
        picture(1)[:200],
        picture(1, kind="BMP"),
        picture(1, kind="GIF"),
    ],
)
def test_what_is_no_whole_image_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="the-name cannot be read as PNG, JPEG or WebP"):
        decode_image(content, name="the-name", size=SIZE, resize=True)


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [4_097, 10_000, 60_000])
def test_decompression_bombs_are_refused_undecoded(side: int) -> None:
    with pytest.raises(UsageError, match="decompression bomb"):
        decode_image(png_that_claims(side, side), name="bomb", size=SIZE, resize=True)


@pytest.mark.parametrize(
    ("mode", "fill", "message"),
    [
        ("RGBA", (1, 2, 3, 254), "is partly transparent"),
        ("LA", (1, 0), "is partly transparent"),
        ("I;16", 700, "has pixels of mode I;16"),
    ],
)
def test_ambiguous_pixels_are_refused(mode: str, fill: object, message: str) -> None:
    content = png_of(Image.new(mode, (SIZE, SIZE), fill))
    with pytest.raises(UsageError, match=message):
        decode_image(content, name="odd", size=SIZE, resize=False)


def test_animations_are_refused() -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), (shade, 0, 0)) for shade in (10, 200)]
    content = png_of(frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UsageError, match="is animated"):
        decode_image(content, name="film", size=SIZE, resize=False)


def test_opaque_palette_and_grey_images_become_rgb() -> None:
    grey = Image.new("L", (SIZE, SIZE), 77)
    for image in (grey, grey.convert("RGBA"), grey.convert("P"), grey.convert("LA")):
        found = decode_image(png_of(image), name="grey", size=SIZE, resize=False)
        assert torch.equal(found, torch.full((3, SIZE, SIZE), 77, dtype=torch.uint8))


# -- archives --------------------------------------------------------------------------------


def test_an_archive_that_lies_about_a_size_unpacks_no_more(tmp_path: Path) -> None:
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0/0.png", b"\0" * 50_000)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 50_000), struct.pack("<I", 50)))
    with pytest.raises(UsageError, match=r"file 0/0.png in .* cannot be read"):
        ImageArchive(path).read("0/0.png")


@pytest.mark.parametrize("packed", [False, True])
def test_files_larger_than_an_image_can_be_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(imported, "MAX_FILE_BYTES", 100)
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=1)
    archive = ImageArchive(zipped(tmp_path / "set.zip", folder) if packed else folder)
    with pytest.raises(UsageError, match="at most"):
        archive.read("0/photo-0.png")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_an_archive_holds_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for content in (b"one", b"other"):
            archive.writestr("new000/class000_id000.jpg", content)
    with pytest.raises(UsageError, match=r"holds new000/class000_id000.jpg twice"):
        ImageArchive(path)


def test_a_file_that_is_no_whole_archive_is_refused(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "set.zip", write_set(tmp_path / "set", NAMED, ipc=1)).read_bytes()
    for content in (b"", b"words", whole[:-30], whole[: len(whole) // 2]):
        path = tmp_path / "part.zip"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"part.zip cannot be read"):
            ImageArchive(path)


def test_damaged_archives_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=3)
    whole = zipped(tmp_path / "set.zip", folder).read_bytes()
    random = np.random.default_rng(0)
    path, refusals = tmp_path / "damaged.zip", 0
    for _ in range(300):
        content = io.BytesIO(whole)
        content.seek(int(random.integers(len(whole))))
        content.write(random.bytes(3))
        path.write_bytes(content.getvalue())
        try:
            archive = ImageArchive(path)
            found = [archive.read(name) for name in archive.names]
        except UsageError:
            refusals += 1
            continue
        assert set(found) <= {picture(100 * index) for index in range(3)}
    assert refusals > 200


def test_a_link_to_a_parent_folder_ends(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=1)
    (folder / "0" / "loop").symlink_to(folder)
    with pytest.raises(UsageError, match="does not lie in a class folder"):
        find_images(ImageArchive(folder), infos("0"))


# -- settings --------------------------------------------------------------------------------


def test_other_methods_do_not_depend_on_import_settings() -> None:
    plain = load_settings("digits_quick", {"methods": ["random_real"]})
    marked = {"methods": ["random_real"], "recipes": {"random_real": {"resize": True}}}
    first = method_fingerprint(plain, "random_real")
    assert method_fingerprint(load_settings("digits_quick", marked), "random_real") == first
    own = ({}, {"source": "/y"}, {"resize": True}, {"title": "Words only"})
    settings = [settings_of(Path("/x"), **each) for each in own]
    assert len({method_fingerprint(each, "imported") for each in settings}) == 3


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({}, r"method imported: no source; .* recipes.imported.source"),
        ({"imported": {"source": "set"}}, "depends on where the run is started"),
        (
            {"imported": {"source": "/x", "image_source": "initial"}},
            "source is '/x', but image_source",
        ),
    ],
)
def test_a_meaningless_source_is_refused(recipes: dict, message: str) -> None:
    values = load_settings("digits_quick").plain()
    with pytest.raises(UsageError, match=message):
        build_settings({**values, "methods": ["imported"], "recipes": recipes}, where="test")
