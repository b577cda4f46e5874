"""Distilled sets made elsewhere: every layout is read, and a set that does not fit is refused."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import method_fingerprint
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.image_archive import ImageArchive
from prism_nb.data.imported import ImportedSet, find_images, imported_set, infer_ipc
from prism_nb.data.registry import open_dataset
from tests.helpers.image_sets import SIZE, picture, pixels_of, write_set

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


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


class Names(ImageArchive):
    """An archive that is nothing but names."""

    def __init__(self, *names: str) -> None:
        self.path, self.names = Path("/set"), sorted(names)


def infos(*folders: str) -> list[ClassInfo]:
    return [ClassInfo(index, folder, f"name {index}") for index, folder in enumerate(folders)]


# -- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [PUBLISHED, OWN, NAMED, "images/" + OWN, "sre2l_ipc2/" + PUBLISHED]
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_is_read_pixel_by_pixel(tmp_path: Path, name: str, packed: bool) -> None:
    path = write_set(tmp_path / "set", name, ipc=2)
    for litter in (".DS_Store", "README.md", "labels.safetensors", ".x.png"):
        (path / litter).write_text("words")
    path = zipped(tmp_path / "set.zip", path) if packed else path
    keys = [(c, s) for c in range(10) for s in range(2)]
    pixels, _ = open_set(path).images(keys)
    assert torch.equal(pixels, torch.stack([pixels_of(picture(100 * c + s)) for c, s in keys]))
    assert infer_ipc(path, open_dataset(settings_of(path))) == 2


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "new004/class004_id001.png").unlink(), "has 1 images of class 4"),
        (lambda f: (f / "new002/class002_id0001.png").touch(), "has 3 images of class 2"),
        (lambda f: (f / "new000").rename(f / "new001/new000"), "class folders at several places"),
        (lambda f: (f / "new009").rename(f / "nine"), r"nine/.* is no class of the dataset"),
        (lambda f: [shutil.rmtree(each) for each in f.iterdir()], "holds no images"),
        (lambda f: (f / "classes.json").write_text("[" * 100_000), "classes.json is damaged"),
        (
            lambda f: (f / "classes.json").write_text(
                '[{"index": 0, "folder": "0", "name": "zero"}]'
            ),
            "class001_id000.png is numbered as class 1, which is not a class",
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


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1)
    (folder / "3" / "photo-0.png").write_bytes(b"version https://git-lfs")
    with pytest.raises(UsageError, match="3/photo-0.png cannot be read .*no image.*git lfs pull"):
        open_set(folder, ipc=1).images([(3, 0)])


def test_another_size_is_fitted_only_on_request(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1)
    (folder / "3" / "photo-0.png").write_bytes(picture(7, size=24))
    with pytest.raises(UsageError, match=r"3/photo-0.png cannot be .* 24 x 24.* set image_size"):
        open_set(folder, ipc=1).images([(3, 0)])
    pixels, _ = open_set(folder, ipc=1, resize=True).images([(3, 0)])
    with Image.open(io.BytesIO(picture(7, size=24))) as image:
        fitted = np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert (pixels[0].permute(1, 2, 0).numpy() == fitted).all()


def read(classes: list[ClassInfo], *names: str) -> list[list[str]]:
    return find_images(Names(*names), classes)[1]


@pytest.mark.parametrize(
    "name",
    [
        "{c:05d}/class{c:05d}_id{s:05d}.jpg",  # RDED
        "new{c:03d}/class{c:03d}_id{s:03d}.JPEG",
        "{c}/{s}.png",
        "class_{c}/{s}.png",
        "{c:03d}_whatever/{s}.png",
        "top/train/{c}/{s}.png",
        "set\\{c}\\{s}.png",
        "train/label={c}/images/{s}.png",
    ],
)
def test_numbers_are_read_as_numbers(name: str) -> None:
    files = read(
        infos(*"abcdefghijkl"), *(name.format(c=c, s=s) for c in range(12) for s in (9, 10))
    )
    assert files == [[name.format(c=c, s=s) for s in (9, 10)] for c in range(12)]


@pytest.mark.parametrize(
    "names",
    [
        ("Tench/0.png", "great white shark/0.png"),
        ("tench, Tinca tinca/0.png", "great_white_shark/0.png"),
        ("000_tench/0.png", "002_great_white_shark/0.png"),
        ("tench_000/0.png", "great_white_shark1/0.png"),
        ("n01440764_tench/0.png", "n01484850/0.png"),
    ],
)
def test_folders_are_read_by_the_names_of_classes(names: tuple[str, str]) -> None:
    classes = [
        ClassInfo(0, "n01484850", "great white shark, white shark, Carcharodon carcharias"),
        ClassInfo(1, "n01440764", "tench, Tinca tinca"),
    ]
    assert read(classes, *names) == [[names[1]], [names[0]]]


def test_a_name_of_two_classes_stands_for_neither() -> None:
    classes = [ClassInfo(0, "n1", "crane, bird"), ClassInfo(1, "n2", "crane, machine")]
    with pytest.raises(UsageError, match=r"no images of class 1 \('n2'\).*crane"):
        read(classes, "crane/0.png", "bird/0.png")


def test_classes_of_a_run_are_taken_from_a_larger_set_by_name() -> None:
    layout, files = find_images(Names("a/0.png", "b/0.png", "c/0.png"), infos("c", "a"))
    assert files == [["c/0.png"], ["a/0.png"]]
    assert layout == "folders named as the classes; other folders left out: 1, e.g. 'b'"
    with pytest.raises(UsageError, match=r"no images of class 1 \('d'\)"):
        read(infos("c", "d"), "a/0.png", "b/0.png", "c/0.png")


def test_a_thousand_numbers_are_those_of_imagenet() -> None:
    names = [f"{c}/0.png" for c in range(1000)]
    assert read(infos("n01484850", "n01440764"), *names) == [["2/0.png"], ["0/0.png"]]
    with pytest.raises(UsageError, match="numbered as class 10, "):
        read(infos("n01484850", "n01440764"), *names[:100])
    with pytest.raises(UsageError, match="numbered as class 10, "):
        read(infos("a", "b"), *names)


def test_numbers_follow_the_order_that_a_set_states(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", OWN, ipc=1, classes=3)
    (folder / "classes.json").write_text('["c", "a", {"index": 2, "folder": "b"}]')
    layout, files = find_images(ImageArchive(folder), infos("a", "b"))
    assert files == [["00001/00001_0000.png"], ["00002/00002_0000.png"]]
    assert layout.startswith("numbered folders, in the order of classes.json; other")
    (folder / "classes.json").write_text('{"B": 2, "A": 1, "C": 0}')  # torchvision's class_to_idx
    assert find_images(ImageArchive(folder), infos("a", "b"))[1] == files


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1/0.png", "2/0.png"), "numbered as class 2, which is not"),
        (("0_b/0.png", "1_x/0.png"), "0_b/0.png is numbered as class 0, .* has another folder"),
        (("new000/0.png", "new000_it500/0.png"), "new000_it500/0.png is no class"),
        (("class000_id000.png", "class001_id000.png"), "class folders nowhere"),
        (("ipc1/0/0.png", "ipc10/0/0.png"), "class folders at several places"),
        (("0/0.bmp", "1/0.bmp"), "holds no images .PNG, JPEG or WebP."),
    ],
)
def test_what_is_not_clear_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(infos("a", "b"), *names)


def test_held_out_images_and_pictures_beside_the_classes_are_left_out() -> None:
    names = ("s/ipc1/a/0.png", "s/ipc1/grid.png", "s/val/a/1.png", "s/val/b/1.png")
    assert read(infos("a"), *names) == [["s/ipc1/a/0.png"]]
    assert read(infos("a"), *names[2:]) == [["s/val/a/1.png"]]


# -- archives --------------------------------------------------------------------------------


def test_damaged_archives_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=3)
    whole = zipped(tmp_path / "set.zip", folder).read_bytes()
    path, refusals = tmp_path / "damaged.zip", 0
    for content in (b"", b"words", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"damaged.zip cannot be read"):
            ImageArchive(path)
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        start = int(random.integers(len(whole) - 3))
        content[start : start + 3] = random.bytes(3)
        path.write_bytes(content)
        try:
            archive = ImageArchive(path)
            found = [archive.read(name) for name in archive.names]
        except UsageError:
            refusals += 1
            continue
        assert set(found) <= {picture(100 * index) for index in range(3)}
    assert refusals > 200


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_files_of_hubs_and_editors_are_overlooked(tmp_path: Path, packed: bool) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=1)
    hidden = (
        ".cache/huggingface",
        "0/.ipynb_checkpoints",
        "__MACOSX/set",
        "0/@eaDir",
        "#recycle/0",
    )
    for name in (*hidden, ".git"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes(picture(1))
    path = zipped(tmp_path / "set.zip", folder) if packed else folder
    assert ImageArchive(path).names == ["0/photo-0.png"]


def test_links_are_followed_but_not_to_a_parent_folder(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=1)
    (folder / "0" / "loop").symlink_to(folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "0").symlink_to(folder / "0")
    for each in (folder, tmp_path / "linked"):
        assert ImageArchive(each).names == ["0/photo-0.png"]


@pytest.mark.parametrize("name", ["images.NPZ", "images.pth.tar", "set.tar.gz"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    torch.save({"images": torch.zeros(2)}, tmp_path / name)  # which is a zip archive, too
    with pytest.raises(UsageError, match=f"{name} is no zip archive, .* save its"):
        ImageArchive(tmp_path / name)


# -- settings --------------------------------------------------------------------------------


def test_other_methods_do_not_depend_on_import_settings() -> None:
    plain = load_settings("digits_quick", {"methods": ["random_real"]})
    marked = {"methods": ["random_real"], "recipes": {"random_real": {"resize": True}}}
    first = method_fingerprint(plain, "random_real")
    assert method_fingerprint(load_settings("digits_quick", marked), "random_real") == first
    own = ({}, {"source": "/y"}, {"resize": True}, {"title": "Words only"})
    settings = [settings_of(Path("/x"), **each) for each in own]
    assert len({method_fingerprint(each, "imported") for each in settings}) == 3
