"""Other people's sets as methods of a run: every layout is read, and what is unfit is named."""

from __future__ import annotations

import hashlib
import io
import re
import stat
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

from prism_nb.core import unit_plan
from prism_nb.core.config import build_settings, load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.recipe import load_recipe
from prism_nb.core.run import Run
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data import imported
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.distilled import load_images
from prism_nb.data.imported import ImageArchive, decode_image, list_images, open_archive
from prism_nb.data.registry import open_dataset
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.exchange import import_images
from prism_nb.execution.study import StudyFolder, check_study
from tests.helpers.image_sets import (
    SETTINGS,
    SIZE,
    begin_run,
    hash_of,
    picture,
    pixel_hashes,
    write_set,
)

PUBLISHED = "new{c:03d}/class{c:03d}_id{s:03d}.png"
OWN = "{c:05d}/{c:05d}_{s:04d}.png"
NAMED = "{c}/photo-{s}.png"


class Names(ImageArchive):
    """A source that is nothing but names."""

    def __init__(self, *names: str) -> None:
        self.path = Path("/set")
        self._names = sorted(names)

    def names(self) -> list[str]:
        return self._names

    def read(self, name: str) -> bytes:
        raise AssertionError(f"{name} was read")


def infos(*folders: str) -> list[ClassInfo]:
    return [ClassInfo(index, folder, f"name {index}") for index, folder in enumerate(folders)]


def take_over(path: Path, tmp_path: Path, **changes: object) -> Run:
    """Import a set into a new run of its own."""
    run, _ = import_images(
        path,
        run_name="b",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS, **changes},
    )
    return run


def refused(path: Path, tmp_path: Path, **changes: object) -> str:
    """Return what is said of a set that cannot be taken over; nothing is written then."""
    with pytest.raises(UsageError) as caught:
        take_over(path, tmp_path, **changes)
    assert not (tmp_path / "runs").exists()
    return str(caught.value)


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


# -- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [PUBLISHED, OWN, NAMED, "images/" + OWN, "sre2l_ipc2/" + PUBLISHED]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_set_of_every_layout_is_taken_over_pixel_by_pixel(
    tmp_path: Path, name: str, packed: bool
) -> None:
    path = write_set(tmp_path / "set", name, ipc=2)
    path = zipped(tmp_path / "set.zip", path) if packed else path
    run = take_over(path, tmp_path)
    assert run.settings.ipc == 2
    assert run.settings.methods == ("random_real", "imported")
    assert pixel_hashes(run, "imported") == {
        OWN.format(c=c, s=s): hash_of(picture(100 * c + s)) for c in range(10) for s in range(2)
    }
    assert pipeline.finished_methods(run) == ["imported"]


@pytest.mark.parametrize(("kind", "ending"), [("JPEG", "jpg"), ("JPEG", "JPEG"), ("WEBP", "webp")])
def test_other_formats_are_decoded_as_pillow_does(tmp_path: Path, kind: str, ending: str) -> None:
    for index in range(10):
        path = tmp_path / "set" / f"new{index:03d}" / f"class{index:03d}_id000.{ending}"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(index, kind=kind))
    run = take_over(tmp_path / "set", tmp_path, methods=["imported"])
    hashes = list(pixel_hashes(run, "imported").values())
    assert hashes == [hash_of(picture(index, kind=kind)) for index in range(10)]


def test_numbers_are_ordered_as_numbers_and_names_as_text() -> None:
    numbered = list_images(
        Names("new000/class000_id1000.png", "new000/class000_id999.png"), infos("a")
    )
    assert numbered.classes == (("new000/class000_id999.png", "new000/class000_id1000.png"),)
    named = list_images(Names("a/10.png", "a/9.png"), infos("a"))
    assert named.classes == (("a/10.png", "a/9.png"),)


@given(st.permutations(range(12)), st.sampled_from([PUBLISHED, OWN, "n{c:04d}/x{s}.jpg"]))
def test_every_image_is_found_once_in_its_own_class(order: list[int], name: str) -> None:
    classes = infos("n0002", "n0000", "n0001", "n0003")
    members = [(place % 4, place // 4) for place in order]
    by_name = {"n0002": 0, "n0000": 1, "n0001": 2, "n0003": 3}
    listing = list_images(Names(*(name.format(c=c, s=s) for c, s in members)), classes)
    assert sorted(n for group in listing.classes for n in group) == sorted(
        name.format(c=c, s=s) for c, s in members
    )
    for index, group in enumerate(listing.classes):
        for image_index, found in enumerate(group):
            folder = found.split("/")[0]
            number = by_name.get(folder, int(folder.removeprefix("new").removeprefix("n")))
            assert number == index
            assert re.search(rf"(x|_id00|_000){image_index}\.", found)


def test_class_folders_are_read_in_the_datasets_order_and_not_in_their_own() -> None:
    listing = list_images(Names("b/0.png", "a/0.png"), infos("b", "a"))
    assert listing.classes == (("b/0.png",), ("a/0.png",))


def test_the_unit_records_the_hash_of_what_it_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1)
    run = take_over(folder, tmp_path, methods=["imported"], batch_size=10)
    (unit,) = unit_plan.method_units(run, "imported", 10)
    hashed = hashlib.sha256()
    for index in range(10):
        content = picture(100 * index)
        hashed.update(f"{index}/photo-0.png\n{len(content)}\n".encode() + content)
    record = run.record(unit)
    assert record["source_sha256"] == hashed.hexdigest()
    assert record["source"] == str(folder)
    assert record["layout"] == "folders named as the classes"


def test_images_of_another_size_are_fitted_only_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", NAMED, ipc=1)
    (folder / "3" / "photo-0.png").write_bytes(picture(7, size=24))
    message = "3/photo-0.png is 24 x 24 pixels, but image_size is 16"
    with pytest.raises(UsageError, match=message):
        take_over(folder, tmp_path, methods=["imported"])
    run, _ = import_images(
        folder,
        run_name="c",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS},
        resize=True,
    )
    found, _ = load_images(run, "imported", open_dataset(run.settings))
    with Image.open(io.BytesIO(picture(7, size=24))) as image:
        fitted = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert found[3].permute(1, 2, 0).numpy().tobytes() == fitted.tobytes()


def test_fitting_keeps_the_proportions_and_cuts_at_the_centre() -> None:
    wide = Image.new("RGB", (32, 16))
    wide.paste((255, 255, 255), (8, 0, 24, 16))
    buffer = io.BytesIO()
    wide.save(buffer, format="PNG")
    found = decode_image(buffer.getvalue(), name="wide", size=16, resize=True)
    assert torch.equal(found, torch.full((3, 16, 16), 255, dtype=torch.uint8))


# -- joining a run ---------------------------------------------------------------------------


def test_a_set_joins_a_run_that_exists_and_leaves_its_results_alone(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs")
    before = pixel_hashes(run, "random_real")
    folder = write_set(tmp_path / "set", PUBLISHED)
    joined, outcome = import_images(
        folder, run_name="a", method="theirs", runs_dir=tmp_path / "runs"
    )
    assert (outcome.made, outcome.kept) == (1, 0)
    assert joined.settings.methods == ("random_real", "theirs")
    assert pixel_hashes(joined, "random_real") == before
    again, outcome = import_images(
        folder, run_name="a", method="theirs", runs_dir=tmp_path / "runs"
    )
    assert (outcome.made, outcome.kept) == (0, 1)
    assert again.settings == joined.settings
    second = write_set(tmp_path / "second", OWN)
    both, _ = import_images(second, run_name="a", method="second", runs_dir=tmp_path / "runs")
    assert both.settings.methods == ("random_real", "theirs", "second")
    assert unit_plan.label_unit(both, "theirs", 10).inputs[-1].startswith("synthesis/theirs/")


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    begin_run(tmp_path / "runs")
    folder = write_set(tmp_path / "set", PUBLISHED)
    import_images(folder, run_name="a", runs_dir=tmp_path / "runs")
    other = write_set(tmp_path / "other", PUBLISHED)
    for method in ("random_real", "imported"):
        with pytest.raises(UsageError, match=f"a method '{method}' already, with other images"):
            import_images(other, run_name="a", method=method, runs_dir=tmp_path / "runs")


def test_a_source_is_needed_no_more_once_its_images_are_there(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    take_over(folder, tmp_path, methods=["imported"])
    folder.rename(tmp_path / "gone")
    changed = {"students": ["test_byobnet"]}
    run = open_run_module.open_run(run_name="b", runs_dir=tmp_path / "runs", changes=changed)
    assert run.settings.students == ("test_byobnet",)
    (run.path / "synthesis" / "imported" / "images" / "00000" / "00000_0000.png").unlink()
    changed = {"students": ["test_resnet"]}
    with pytest.raises(UsageError, match="no folder or archive at"):
        open_run_module.open_run(run_name="b", runs_dir=tmp_path / "runs", changes=changed)


def test_other_methods_do_not_depend_on_what_only_an_import_reads(tmp_path: Path) -> None:
    plain = load_settings("digits_quick", {"methods": ["random_real"]})
    marked = {"methods": ["random_real"], "recipes": {"random_real": {"resize": True}}}
    first = unit_plan.method_fingerprint(plain, "random_real")
    assert (
        unit_plan.method_fingerprint(load_settings("digits_quick", marked), "random_real") == first
    )
    bindings = {
        unit_plan.method_fingerprint(
            load_settings(
                "digits_quick",
                {"methods": ["imported"], "recipes": {"imported": {"source": "/x", **own}}},
            ),
            "imported",
        )
        for own in ({}, {"source": "/y"}, {"resize": True}, {"title": "Words only"})
    }
    assert len(bindings) == 3


def test_a_set_stands_in_a_study_beside_methods_that_are_searched(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED, ipc=2)
    study = {
        "title": "t",
        "question": "q",
        "preset": "digits_quick",
        "settings": {
            "methods": ["prism", "theirs"],
            "teachers": ["test_resnet"],
            "recipes": {"theirs": {"base": "imported", "source": str(folder)}},
        },
        "searches": {"s": {"settings": {"ipc": 2}, "grid": {"lr": [0.1, 0.2]}}},
        "scenarios": {"a": {"title": "A", "settings": {"ipc": 2}, "tuned_by": "s"}},
        "replicates": 1,
    }
    path = tmp_path / "study.yaml"
    path.write_text(write_yaml(study))
    opened = StudyFolder.open(str(path), runs_dir=tmp_path / "runs", name="mine")
    assert [method for _, method in opened.searches] == ["prism"]
    (cell,) = opened.scenarios.values()
    assert cell.settings.recipe_of("theirs").source == str(folder)
    check_study(opened)
    (folder / "new000" / "class000_id000.png").unlink()
    with pytest.raises(UsageError, match="has 1 images of class 0"):
        check_study(opened)


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({}, "method imported: no source; .* recipes.imported.source"),
        ({"imported": {"source": "set"}}, "depends on where the run is started"),
        (
            {"imported": {"source": "/x", "image_source": "initial"}},
            "source is '/x', but its images",
        ),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(recipes: dict, message: str) -> None:
    values = load_settings("digits_quick").plain()
    with pytest.raises(UsageError, match=message):
        build_settings({**values, "methods": ["imported"], "recipes": recipes}, where="test")


def test_no_network_has_a_part_in_an_import() -> None:
    recipe = load_recipe("imported", {"source": "/x", "init": "patches"})
    assert recipe.networks("a", ["a", "b"]) == recipe.stat_networks("a", ["a", "b"]) == ()
    assert recipe.real_per_image(224) == 0


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "new004" / "class004_id001.png").unlink(), "has 1 images of class 4"),
        (
            lambda f: (f / "new004" / "class004_id002.png").write_bytes(picture(1)),
            r"has 3 images of class 4 \('4'\), but ipc is 2",
        ),
        (lambda f: (f / "new003" / "notes.txt").write_text("?"), "new003/notes.txt is no image"),
        (lambda f: (f / "LICENCE").write_text("?"), "LICENCE is no image"),
        (lambda f: (f / "new009").rename(f / "new010"), "'new010' is none of the 10 classes"),
        (lambda f: (f / "new009").rename(f / "nine"), "'nine' is none of the 10 classes"),
        (
            lambda f: (f / "new001" / "class001_id000.png").rename(
                f / "new001" / "class002_id000.png"
            ),
            "new001/class002_id000.png is not named as an image of its class",
        ),
        (
            lambda f: (f / "new002" / "class002_id0001.png").write_bytes(picture(1)),
            "are both image 1 of one class",
        ),
        (
            lambda f: (f / "new000").rename(f / "new001" / "new000"),
            "does not lie in a class folder",
        ),
        (lambda f: (f / "classes.json").write_text("{}"), "must hold a list"),
        (lambda f: (f / "classes.json").write_text("[" * 100_000), "classes.json is damaged"),
        (
            lambda f: (f / "classes.json").write_text(
                '[{"index": 0, "folder": "0", "name": "zero"}]'
            ),
            "the classes differ at index 1: classes.json has None",
        ),
    ],
)
def test_a_set_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    change(folder)
    assert re.search(message, refused(folder, tmp_path))


def test_litter_and_companions_are_no_images(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    (folder / "__MACOSX").mkdir()
    for name in (
        "new000/.DS_Store",
        "new000/._x.png",
        "__MACOSX/y.png",
        "README.md",
        "metadata.jsonl",
        "card.md",
    ):
        (folder / name).write_text("words")
    assert len(pixel_hashes(take_over(folder, tmp_path), "imported")) == 20


def test_a_folder_around_everything_is_seen_through_and_two_are_not() -> None:
    classes = infos("a", "b")
    listing = list_images(Names("top/a/0.png", "top/b/0.png", "top/README.md"), classes)
    assert listing.classes == (("top/a/0.png",), ("top/b/0.png",))
    with pytest.raises(UsageError, match="train/a/0.png does not lie in a class folder"):
        list_images(Names("train/a/0.png", "val/a/0.png"), classes)


def test_names_that_are_no_classes_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match="'n0000a' is no class of the dataset; did you mean 'n000'"
    ):
        list_images(Names("n000/0.png", "n0000a/0.png"), infos("n000", "n001"))
    with pytest.raises(UsageError, match="'zero' is no class of the dataset; valid: 0, 1"):
        list_images(Names("zero/0.png"), infos("0", "1"))


def test_folders_that_mean_two_classes_are_never_guessed() -> None:
    names = ("00000/00000_0000.png", "00001/00001_0000.png")
    with pytest.raises(UsageError, match="class 1 by its name and 0 by its number"):
        list_images(Names(*names), infos("00001", "00000"))
    same = list_images(Names(*names), infos("00000", "00001"))
    assert same.classes == ((names[0],), (names[1],))


def test_an_empty_folder_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(tmp_path / "empty", tmp_path)
    assert "no folder or archive at" in refused(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "cannot be read as PNG, JPEG or WebP"),
        (b"", "cannot be read as PNG, JPEG or WebP"),
        (picture(1)[:200], "cannot be read as PNG, JPEG or WebP"),
        (picture(1, kind="BMP"), "cannot be read as PNG, JPEG or WebP"),
        (picture(1, kind="GIF"), "cannot be read as PNG, JPEG or WebP"),
    ],
)
def test_what_is_no_whole_image_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=f"the-name {message}"):
        decode_image(content, name="the-name", size=SIZE, resize=True)


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [4_097, 10_000, 60_000])
def test_decompression_bombs_are_refused_unopened(side: int) -> None:
    assert imported.MAX_PIXELS == 4_096**2
    with pytest.raises(UsageError, match="is a decompression bomb"):
        decode_image(png_that_claims(side, side), name="bomb", size=SIZE, resize=True)


@pytest.mark.parametrize(
    ("mode", "fill", "message"),
    [
        ("RGBA", (1, 2, 3, 254), "is partly transparent"),
        ("LA", (1, 0), "is partly transparent"),
        ("I;16", 700, "has pixels of kind I;16"),
    ],
)
def test_pixels_that_cannot_be_taken_over_as_they_are_are_refused(
    mode: str, fill: object, message: str
) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (SIZE, SIZE), fill).save(buffer, format="PNG")
    with pytest.raises(UsageError, match=message):
        decode_image(buffer.getvalue(), name="odd", size=SIZE, resize=False)


def test_opaque_transparency_palettes_and_grey_become_rgb() -> None:
    grey = Image.new("L", (SIZE, SIZE), 77)
    for image in (grey, grey.convert("RGBA"), grey.convert("P"), grey.convert("LA")):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        found = decode_image(buffer.getvalue(), name="grey", size=SIZE, resize=False)
        assert torch.equal(found, torch.full((3, SIZE, SIZE), 77, dtype=torch.uint8))


def test_moving_pictures_are_refused() -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), (shade, 0, 0)) for shade in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UsageError, match="is animated"):
        decode_image(buffer.getvalue(), name="film", size=SIZE, resize=False)


# -- archives --------------------------------------------------------------------------------


def archive_with(path: Path, name: str, content: bytes = b"x", *, kind: int = stat.S_IFREG) -> Path:
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    info.create_system = 3
    info.external_attr = (kind | 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name",
    ["../0.png", "0/../../0.png", "/etc/0.png", "C:/0.png", "0\\..\\..\\0.png", "//host/0.png"],
)
def test_archives_whose_names_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="leads out of the archive"):
        open_archive(archive_with(tmp_path / "set.zip", name))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_archives_are_refused(tmp_path: Path, kind: int) -> None:
    with pytest.raises(UsageError, match="is a link or a device"):
        open_archive(archive_with(tmp_path / "set.zip", "0/0.png", b"/etc/passwd", kind=kind))


def test_archive_bombs_are_refused_by_the_sizes_that_they_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = archive_with(tmp_path / "bomb.zip", "0/0.png", b"\0" * 3_000_000)
    with pytest.raises(UsageError, match="would unpack to .* times its size"):
        open_archive(bomb)
    honest = archive_with(tmp_path / "many.zip", "0/0.png", picture(1))
    monkeypatch.setattr(imported, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="says that it holds 1 files"):
        open_archive(honest)


def test_an_archive_that_lies_about_a_size_unpacks_no_more_than_it_stated(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "liar.zip", "0/0.png", b"\0" * 50_000)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 50_000), struct.pack("<I", 50)))
    with pytest.raises(UsageError, match="file 0/0.png in .* cannot be read"):
        open_archive(path).read("0/0.png")


@pytest.mark.parametrize("packed", [False, True])
def test_files_larger_than_an_image_can_be_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(imported, "MAX_FILE_BYTES", 100)
    folder = write_set(tmp_path / "set", NAMED, ipc=1, classes=1)
    source = open_archive(zipped(tmp_path / "set.zip", folder) if packed else folder)
    with pytest.raises(UsageError, match="so something else lies there"):
        source.read("0/photo-0.png")


def test_an_archive_that_says_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("0/0.png", b"a")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("0/0.png", b"b")
    with pytest.raises(UsageError, match="a name stands twice"):
        open_archive(tmp_path / "set.zip")


def test_a_file_that_is_no_whole_archive_is_refused(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "set.zip", write_set(tmp_path / "set", NAMED, ipc=1)).read_bytes()
    for content in (b"", b"words", whole[:-30], whole[: len(whole) // 2]):
        path = tmp_path / "part.zip"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="part.zip cannot be read"):
            open_archive(path)


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
            source = open_archive(path)
            found = [source.read(name) for name in source.names()]
        except UsageError:
            refusals += 1
            continue
        assert set(found) <= {picture(100 * index) for index in range(3)}
    assert refusals > 200


def test_a_damaged_file_in_an_archive_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", write_set(tmp_path / "set", NAMED, ipc=1, classes=1))
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    with pytest.raises(UsageError, match="0/photo-0.png in .* cannot be read"):
        open_archive(path).read("0/photo-0.png")


def test_an_image_that_fails_later_leaves_the_finished_units(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    (folder / "new009" / "class009_id001.png").write_bytes(b"broken")
    with pytest.raises(PrismError, match="new009/class009_id001.png cannot be read"):
        take_over(folder, tmp_path, batch_size=10)
    (folder / "new009" / "class009_id001.png").write_bytes(picture(901))
    _, outcome = import_images(folder, run_name="b", runs_dir=tmp_path / "runs")
    assert (outcome.made, outcome.kept) == (1, 1)
