"""Handing sets on: what is written can be taken over again, and is the same every time."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from prism_nb import headless
from prism_nb.core import fileio, unit_plan
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.yaml_io import read_yaml
from prism_nb.execution import exchange
from prism_nb.execution.exchange import export_set, import_images
from tests.helpers.command import call
from tests.helpers.image_sets import SETTINGS, begin_run, hash_of, pixel_hashes, write_set

METHOD = "random_real"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with two random real images per class; ten classes."""
    return begin_run(tmp_path_factory.mktemp("runs"))


def tree(path: Path) -> dict[str, bytes]:
    """Return every file of a folder or an archive with its content."""
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def front_matter(text: bytes) -> dict:
    _, block, _ = text.decode().split("---\n", 2)
    return read_yaml(block, where="card")


@pytest.mark.parametrize(
    ("layout", "kind", "dest"),
    [
        ("published", "png", "out"),
        ("imagefolder", None, "out"),
        ("imagefolder", "png", "out"),
        ("archive", None, "out.zip"),
    ],
)
def test_import_of_an_export_is_the_identity(
    run: Run, tmp_path: Path, layout: str, kind: str | None, dest: str
) -> None:
    export_set(run, METHOD, tmp_path / dest, layout=layout, kind=kind)
    back, _ = import_images(
        tmp_path / dest,
        run_name="back",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS, "methods": ["imported"]},
    )
    assert back.settings.ipc == 2
    assert pixel_hashes(back, "imported") == pixel_hashes(run, METHOD)
    assert back.read_classes() == run.read_classes()


def test_the_published_layout_is_jpeg_of_the_quality_asked_for(run: Run, tmp_path: Path) -> None:
    export_set(run, METHOD, tmp_path / "out", quality=60, layout="published")
    found = tree(tmp_path / "out")
    names = {f"new{c:03d}/class{c:03d}_id{s:03d}.jpg" for c in range(10) for s in range(2)}
    assert found.keys() == names | {"card.md", "classes.json"}
    assert json.loads(found["classes.json"]) == run.read_classes()
    source = run.path / "synthesis" / METHOD / "images" / "00003" / "00003_0001.png"
    buffer = io.BytesIO()
    with Image.open(source) as image:
        image.save(buffer, format="JPEG", quality=60)
    assert found["new003/class003_id001.jpg"] == buffer.getvalue()
    assert hash_of(buffer.getvalue()) != hash_of(source.read_bytes())
    assert "JPEG of quality 60, with losses" in found["card.md"].decode()
    assert front_matter(found["card.md"])["prism_nb"]["coding"].startswith("JPEG of quality 60")


def test_torchvision_reads_an_exported_imagefolder(run: Run, tmp_path: Path) -> None:
    export_set(run, METHOD, tmp_path / "out", layout="imagefolder")
    found = ImageFolder(str(tmp_path / "out"))
    classes = run.read_classes() or []
    assert found.classes == sorted(info["folder"] for info in classes)
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert len(entries) == len(found.samples) == 20
    originals = pixel_hashes(run, METHOD)
    for entry in entries:
        info = classes[entry["label"]]
        image_index = int(Path(entry["file_name"]).stem)
        assert entry["class_name"] == info["name"]
        assert entry["file_name"] == f"{info['folder']}/{image_index:04d}.png"
        index = entry["label"]
        content = (tmp_path / "out" / entry["file_name"]).read_bytes()
        assert hash_of(content) == originals[f"{index:05d}/{index:05d}_{image_index:04d}.png"]


@pytest.mark.parametrize("layout", ["published", "imagefolder", "archive"])
def test_an_export_has_the_same_bytes_every_time(
    run: Run, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "one.zip", tmp_path / "two.zip"
    export_set(run, METHOD, first, layout=layout)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    export_set(run, METHOD, second, layout=layout)
    assert tree(first) == tree(second)
    if layout == "archive":
        assert first.read_bytes() == second.read_bytes()
        with zipfile.ZipFile(first) as archive:
            infos = archive.infolist()
        assert [info.filename for info in infos] == sorted(info.filename for info in infos)
        assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}


def test_an_archive_holds_the_runs_files_and_complete_labels(
    tmp_path: Path,
) -> None:
    run = begin_run(tmp_path / "runs", label_epochs=1)
    done = export_set(run, METHOD, tmp_path / "without.zip")
    assert done.label_files == 0
    found = tree(tmp_path / "without.zip")
    assert "No soft labels" in found["card.md"].decode()
    for name, content in found.items():
        if name.startswith("images/"):
            assert content == (run.path / "synthesis" / METHOD / name).read_bytes()
    (unit,) = unit_plan.relabel_units(run, 10)
    fileio.write_bytes(run.path / "labels" / METHOD / "epoch_0000.safetensors", b"logits")
    export_set(run, METHOD, tmp_path / "unfinished.zip")
    assert tree(tmp_path / "unfinished.zip") == found
    run.units.finish(unit, paths=[f"labels/{METHOD}/epoch_0000.safetensors"], record={})
    assert export_set(run, METHOD, tmp_path / "with.zip").label_files == 1
    labelled = tree(tmp_path / "with.zip")
    assert labelled.keys() - found.keys() == {"labels/epoch_0000.safetensors"}
    assert labelled["labels/epoch_0000.safetensors"] == b"logits"
    assert "soft labels of test_resnet" in labelled["card.md"].decode()


def test_the_card_names_recipe_versions_and_licence(run: Run, tmp_path: Path) -> None:
    done = export_set(run, METHOD, tmp_path / "out.zip")
    found = tree(tmp_path / "out.zip")
    matter = front_matter(found["card.md"])
    ours = matter["prism_nb"]
    assert (matter["license"], matter["task_categories"]) == ("other", ["image-classification"])
    assert (ours["method"], ours["dataset"], ours["images_per_class"]) == (METHOD, "digits", 2)
    assert ours["recipe"]["init"] == "real_random"
    assert ours["versions"]["torch"]
    assert ours["settings_hash"]
    hashed = hashlib.sha256()
    for index in range(10):
        for image_index in range(2):
            content = found[f"images/{index:05d}/{index:05d}_{image_index:04d}.png"]
            hashed.update(f"{index} {image_index} {hashlib.sha256(content).hexdigest()}\n".encode())
    assert ours["content"] == done.content == hashed.hexdigest()
    text = found["card.md"].decode()
    assert "derive from the training images of digits" in text
    assert "Made with the PRISM kit" in text
    assert str(run.path) not in text


def test_the_card_of_an_imported_set_has_no_local_path(run: Run, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", "{c}/{s}.png")
    joined, _ = import_images(
        folder,
        run_name="b",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS, "methods": ["imported"]},
    )
    export_set(joined, "imported", tmp_path / "out.zip")
    text = tree(tmp_path / "out.zip")["card.md"].decode()
    assert "Made by others" in text
    assert "Made with" not in text
    assert front_matter(text.encode())["prism_nb"]["recipe"] == {
        "image_source": "imported",
        "title": "Imported",
        "paper": joined.settings.recipe_of("imported").paper,
    }
    assert all(
        str(tmp_path).encode() not in content for content in tree(tmp_path / "out.zip").values()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "prism"}, "run a has no method 'prism'"),
        ({"layout": "tar"}, "unknown layout 'tar'"),
        ({"layout": "archive", "kind": "jpeg"}, "layout archive copies the images unchanged"),
        ({"layout": "published", "kind": "png", "quality": 75}, "PNG has none"),
        ({"layout": "archive", "dest": "out"}, "an archive is one file: call it out.zip"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, arguments: dict, message: str
) -> None:
    values = {"method": METHOD, "dest": "out.zip", **arguments}
    with pytest.raises(UsageError, match=message):
        export_set(run, values.pop("method"), tmp_path / values.pop("dest"), **values)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    (tmp_path / "file.zip").write_text("precious")
    for dest, layout in (
        ("full", "published"),
        ("file.zip", "imagefolder"),
        ("file.zip", "archive"),
    ):
        with pytest.raises(UsageError, match="is not empty|is a file|exists already"):
            export_set(run, METHOD, tmp_path / dest, layout=layout)
    assert tree(tmp_path) == {"full/mine": b"precious", "file.zip": b"precious"}


@pytest.mark.parametrize("layout", ["published", "archive"])
def test_an_export_that_is_interrupted_leaves_nothing(
    run: Run, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exchange.ArchiveEntry
    made: list[str] = []

    def counted(name: str, content: object) -> exchange.ArchiveEntry:
        def interrupted() -> bytes:
            made.append(name)
            if len(made) > 5:
                raise KeyboardInterrupt
            return content()  # type: ignore[operator]

        return whole(name, interrupted)

    monkeypatch.setattr("prism_nb.execution.exchange.ArchiveEntry", counted)
    with pytest.raises(KeyboardInterrupt):
        export_set(run, METHOD, tmp_path / "out.zip", layout=layout)
    assert len(made) == 6
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_damaged_or_missing_are_not_handed_on(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs")
    path = run.path / "synthesis" / METHOD / "images" / "00000" / "00000_0000.png"
    with Image.open(path) as image:
        other = Image.fromarray(255 - np.array(image))
    other.save(path)
    with pytest.raises(PrismError, match="is damaged; `prism-nb run` makes them"):
        export_set(run, METHOD, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


# -- the command -----------------------------------------------------------------------------


def test_the_commands_export_and_import(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, runs = tmp_path / "out.zip", ("--runs-dir", run.path.parent)
    result = call(monkeypatch, capsys, "export", "a", METHOD, archive, *runs)
    assert result.code == 0
    assert "20 images" in result.out
    sets = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    new = ("--preset", "digits_quick", "--as", "theirs", "--runs-dir", tmp_path / "runs")
    result = call(monkeypatch, capsys, "import", archive, "--run", "b", *sets, *new)
    assert result.code == 0
    assert "theirs: 2 images per class of digits" in result.out
    found = Run.open(tmp_path / "runs" / "b")
    assert pixel_hashes(found, "theirs") == pixel_hashes(run, METHOD)


def test_a_run_begun_by_an_import_keeps_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, _ = import_images(
        write_set(tmp_path / "set", "{c}/{s}.png", ipc=3),
        run_name="b",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS},
    )
    seen: list[Run] = []

    def stop(run: Run, **_: object) -> None:
        seen.append(run)
        raise PrismError("far enough")

    monkeypatch.setattr(headless, "run_notebooks", stop)
    continued = ("run", "--run", "b", "--runs-dir", tmp_path / "runs", "--set", "student_seeds=3")
    result = call(monkeypatch, capsys, *continued)
    assert (result.code, result.err) == (1, "error: far enough\n")
    changed = {**begun.settings.plain(), "student_seeds": 3}
    assert seen[0].settings.plain() == changed
    assert seen[0].settings.ipc == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("import SET", "Missing option '--run'"),
        ("import SET --run new", "a new run needs a preset"),
        ("import SET --run new --preset digits_quick --as a/b", "cannot name a folder of results"),
        ("import SET --run new --preset digits_quick --set ipc=3", "but ipc is 3"),
        ("import SET --run new --preset digits_quick --set methods=prism", "a list is needed"),
        ("import SET --run new --preset digits_quick --set recipes=3", "recipes: a mapping"),
        ("import SET --run new --preset digits_quick --as prism", "a method 'prism' already"),
        ("import nowhere --run new --preset digits_quick", "no folder or archive at"),
        ("export new random_real out.zip", "no run at"),
        ("export new random_real out.zip --quality 101", "101 is not in the range"),
    ],
)
def test_mistakes_end_with_one_message_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    folder = write_set(tmp_path / "set", "new{c:03d}/class{c:03d}_id{s:03d}.png")
    words = [str(folder) if word == "SET" else word for word in arguments.split()]
    result = call(monkeypatch, capsys, *words, "--runs-dir", tmp_path / "runs")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.out + result.err
    assert not (tmp_path / "runs").exists()
