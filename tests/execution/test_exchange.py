"""Archives are the same every time and can be imported again; imports mix with nothing else."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from prism_nb import headless
from prism_nb.core import fileio, unit_plan
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.yaml_io import read_yaml
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from prism_nb.execution.exchange import export_set, import_images
from prism_nb.execution.open_run import open_run
from tests.helpers.command import call
from tests.helpers.image_sets import (
    SETTINGS,
    begin_run,
    hash_of,
    picture,
    pixel_hashes,
    write_set,
)

METHOD = "random_real"
PUBLISHED = "new{c:03d}/class{c:03d}_id{s:03d}.png"
OWN = "{c:05d}/{c:05d}_{s:04d}.png"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with two random real images per class; ten classes."""
    return begin_run(tmp_path_factory.mktemp("runs"))


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def front_matter(card: bytes) -> dict[str, Any]:
    _, block, _ = card.decode().split("---\n", 2)
    return read_yaml(block, where="card")


def import_new(path: Path, tmp_path: Path, **changes: Any) -> Run:
    """Import a set into a new run."""
    run, _ = import_images(
        path,
        run_name="b",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS, **changes},
    )
    return run


# -- export ----------------------------------------------------------------------------------


def test_torchvision_reads_an_unpacked_export(run: Run, tmp_path: Path) -> None:
    export_set(run, METHOD, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path)
    samples = ImageFolder(str(tmp_path / "images")).samples
    originals = pixel_hashes(run, METHOD)
    assert [label for _, label in samples] == [c for c in range(10) for _ in range(2)]
    assert [hash_of(Path(path).read_bytes()) for path, _ in samples] == list(originals.values())


def test_an_export_has_the_same_bytes_every_time(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "one.zip", tmp_path / "two.zip"
    export_set(run, METHOD, first)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    export_set(run, METHOD, second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted(info.filename for info in infos)
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {stat.S_IFREG | 0o644}


def test_an_archive_holds_the_runs_files_and_complete_labels(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs", label_epochs=1)
    export_set(run, METHOD, tmp_path / "without.zip")
    found = contents(tmp_path / "without.zip")
    assert json.loads(found["classes.json"]) == run.read_classes()
    assert "No soft labels" in found["card.md"].decode()
    for name, content in found.items():
        if name.startswith("images/"):
            assert content == (run.path / "synthesis" / METHOD / name).read_bytes()
    (unit,) = unit_plan.relabel_units(run, 10)
    fileio.write_bytes(run.path / "labels" / METHOD / "epoch_0000.safetensors", b"logits")
    export_set(run, METHOD, tmp_path / "unfinished.zip")
    assert contents(tmp_path / "unfinished.zip") == found
    run.units.finish(unit, paths=[f"labels/{METHOD}/epoch_0000.safetensors"], record={})
    export_set(run, METHOD, tmp_path / "with.zip")
    labelled = contents(tmp_path / "with.zip")
    assert labelled.keys() - found.keys() == {"labels/epoch_0000.safetensors"}
    assert labelled["labels/epoch_0000.safetensors"] == b"logits"
    assert "soft labels of test_resnet" in labelled["card.md"].decode()


def test_the_card_names_recipe_versions_and_licence(run: Run, tmp_path: Path) -> None:
    content = export_set(run, METHOD, tmp_path / "out.zip")
    found = contents(tmp_path / "out.zip")
    matter = front_matter(found["card.md"])
    ours = matter["prism_nb"]
    assert (matter["license"], matter["task_categories"]) == ("other", ["image-classification"])
    assert (ours["method"], ours["dataset"], ours["images_per_class"]) == (METHOD, "digits", 2)
    assert ours["recipe"]["init"] == "real_random"
    assert ours["versions"]["torch"]
    names = [name for name in found if name.startswith("images/")]
    lines = [f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in names]
    assert ours["content"] == content == hashlib.sha256("".join(lines).encode()).hexdigest()
    text = found["card.md"].decode()
    assert "derive from the training images of digits" in text
    assert "Made with the PRISM kit" in text
    assert str(run.path) not in text


def test_the_card_of_an_imported_set_has_no_local_path(tmp_path: Path) -> None:
    joined = import_new(write_set(tmp_path / "set", OWN), tmp_path, methods=["imported"])
    export_set(joined, "imported", tmp_path / "out.zip")
    found = contents(tmp_path / "out.zip")
    assert "Made by others" in found["card.md"].decode()
    assert all(str(tmp_path).encode() not in content for content in found.values())


@pytest.mark.parametrize(
    ("method", "dest", "message"),
    [
        ("prism", "out.zip", "run a has no method 'prism'"),
        (METHOD, "out.parquet", "name a new .zip file, or a new folder"),
        (METHOD, "full.zip", "name a new .zip file"),
    ],
)
def test_a_wrong_export_is_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, method: str, dest: str, message: str
) -> None:
    (tmp_path / "full.zip").write_text("precious")
    with pytest.raises(UsageError, match=message):
        export_set(run, method, tmp_path / dest)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_damaged_images_are_not_exported(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs")
    path = run.path / "synthesis" / METHOD / "images" / "00000" / "00000_0000.png"
    with Image.open(path) as image:
        other = Image.fromarray(255 - np.array(image))
    other.save(path)
    with pytest.raises(PrismError, match="are damaged; `prism-nb run` makes them"):
        export_set(run, METHOD, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_a_folder_of_parquet_has_images_card_labels_and_class_names(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs", label_epochs=1)
    (unit,) = unit_plan.relabel_units(run, 10)
    fileio.write_bytes(run.path / "labels" / METHOD / "epoch_0000.safetensors", b"logits")
    run.units.finish(unit, paths=[f"labels/{METHOD}/epoch_0000.safetensors"], record={})
    content = export_set(run, METHOD, tmp_path / "out")
    assert content == export_set(run, METHOD, tmp_path / "out.zip")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/*.*")}
    data = "data/train-00000-of-00001.parquet"
    assert files == {"README.md", "classes.json", data, "labels/epoch_0000.safetensors"}
    table = pq.read_table(tmp_path / "out" / data)
    assert table["label"].to_pylist() == [c for c in range(10) for _ in range(2)]
    found = [hash_of(image["bytes"]) for image in table["image"].to_pylist()]
    assert found == list(pixel_hashes(run, METHOD).values())
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    folders = [info["folder"] for info in run.read_classes()]
    assert features["label"] == {"_type": "ClassLabel", "names": folders}
    matter = front_matter((tmp_path / "out" / "README.md").read_bytes())
    names = matter["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]
    assert names == {str(index): name for index, name in enumerate(folders)}
    assert matter["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert matter["prism_nb"]["content"] == content
    back = import_new(tmp_path / "out", tmp_path, methods=["imported"])
    assert pixel_hashes(back, "imported") == pixel_hashes(run, METHOD)


# -- import ----------------------------------------------------------------------------------


def test_a_new_run_has_the_sets_ipc_and_pixels(tmp_path: Path) -> None:
    run = import_new(write_set(tmp_path / "set", PUBLISHED, ipc=2), tmp_path)
    assert run.settings.ipc == 2
    assert run.settings.methods == (METHOD, "imported")
    assert pixel_hashes(run, "imported") == {
        OWN.format(c=c, s=s): hash_of(picture(100 * c + s)) for c in range(10) for s in range(2)
    }
    assert pipeline.finished_methods(run) == ["imported"]


def test_a_set_joins_a_run_and_leaves_its_results_alone(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs")
    before = pixel_hashes(run, METHOD)
    folder = write_set(tmp_path / "set", PUBLISHED)
    where = {"run_name": "a", "runs_dir": tmp_path / "runs"}
    joined, outcome = import_images(folder, method="theirs", **where)
    assert (outcome.made, outcome.skipped) == (1, 0)
    assert joined.settings.methods == (METHOD, "theirs")
    assert pixel_hashes(joined, METHOD) == before
    again, outcome = import_images(folder, method="theirs", **where)
    assert (outcome.made, outcome.skipped) == (0, 1)
    assert again.settings == joined.settings
    other = write_set(tmp_path / "other", PUBLISHED)
    for method in (METHOD, "theirs"):
        with pytest.raises(UsageError, match=f"a method '{method}' already, with other images"):
            import_images(other, method=method, **where)


@pytest.mark.parametrize("resize", [True, False])
def test_a_set_that_could_not_be_read_may_be_replaced(tmp_path: Path, resize: bool) -> None:
    run = begin_run(tmp_path / "runs")
    where = {"run_name": "a", "runs_dir": tmp_path / "runs", "method": "theirs"}
    good, bad = (write_set(tmp_path / name, PUBLISHED) for name in ("good", "bad"))
    for path in bad.rglob("*.*"):
        Image.new("RGB", (28, 28)).save(path)
    with pytest.raises(UsageError, match="it is 28 x 28, not 16"):
        import_images(bad, **where)
    for made in (1, 0):
        joined, outcome = import_images(bad if resize else good, **where, resize=resize)
        assert (outcome.made, joined.settings.methods) == (made, (METHOD, "theirs"))
    with pytest.raises(UsageError, match="a method 'theirs' already, with other images"):
        import_images(good if resize else bad, **where)
    assert pixel_hashes(joined, METHOD) == pixel_hashes(run, METHOD)


def test_the_source_is_not_needed_once_images_are_imported(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    import_new(folder, tmp_path, methods=["imported"])
    folder.rename(tmp_path / "gone")
    where = {"run_name": "b", "runs_dir": tmp_path / "runs"}
    run = open_run(**where, changes={"students": ["test_byobnet"]})
    assert run.settings.students == ("test_byobnet",)
    (run.path / "synthesis" / "imported" / "images" / "00000" / "00000_0000.png").unlink()
    with pytest.raises(UsageError, match="set cannot be read"):
        open_run(**where, changes={"students": ["test_resnet"]})


def test_a_damaged_image_leaves_the_finished_units(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    damaged = folder / "new009" / "class009_id001.png"
    damaged.write_bytes(b"broken")
    with pytest.raises(PrismError, match=r"new009/class009_id001.png cannot be read"):
        import_new(folder, tmp_path, batch_size=10)
    damaged.write_bytes(picture(901))
    run, outcome = import_images(folder, run_name="b", runs_dir=tmp_path / "runs")
    assert (outcome.made, outcome.skipped) == (1, 1)
    record = run.units.record(unit_plan.method_units(run, "imported", 10)[0])
    assert record["source"] == str(folder)


# -- the commands ----------------------------------------------------------------------------


def test_the_commands_export_and_import(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, runs = tmp_path / "out.zip", ("--runs-dir", run.path.parent)
    result = call(monkeypatch, capsys, "export", "a", METHOD, archive, *runs)
    assert result.code == 0
    assert str(archive) in result.out
    sets = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    new = ("--preset", "digits_quick", "--as", "theirs", "--runs-dir", tmp_path / "runs")
    result = call(monkeypatch, capsys, "import", archive, "--run", "b", *sets, *new)
    assert result.code == 0
    assert "theirs, 2 images per class" in result.out
    assert "read     numbered folders, in the order of classes.json\n" in result.out
    found = Run.open(tmp_path / "runs" / "b")
    assert pixel_hashes(found, "theirs") == pixel_hashes(run, METHOD)
    assert found.read_classes() == run.read_classes()


def test_the_command_imports_training_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images of the run `a`, found by their pixels among all that there are."""
    dataset = open_dataset(run.settings)
    pixels = dataset.images("train", range(len(dataset.labels("train")))).permute(0, 2, 3, 1)
    hashes = [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in pixels]
    listed = [str(hashes.index(found)) for found in pixel_hashes(run, METHOD).values()]
    for name, step in (("list.txt", 1), ("copy.txt", 1), ("other.txt", -1)):
        (tmp_path / name).write_text("\n".join(listed[::step]))
    where = ("--run", "b", "--as", "theirs", "--runs-dir", tmp_path / "runs")
    sets = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    new = (*where, "--preset", "digits_quick", *sets)
    result = call(monkeypatch, capsys, "import", "--indices", tmp_path / "list.txt", *new)
    assert (result.code, result.err) == (0, "")
    assert "read     20 indices of training images\n" in result.out
    assert pixel_hashes(Run.open(tmp_path / "runs" / "b"), "theirs") == pixel_hashes(run, METHOD)
    result = call(monkeypatch, capsys, "import", "--indices", tmp_path / "copy.txt", *where)
    assert "0 made, 1 done before" in result.out
    result = call(monkeypatch, capsys, "import", "--indices", tmp_path / "other.txt", *where)
    assert "a method 'theirs' already, with other images" in result.err


def test_a_run_begun_by_an_import_keeps_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = import_new(write_set(tmp_path / "set", OWN, ipc=3), tmp_path)
    seen: list[Run] = []

    def stop(run: Run, **_: object) -> None:
        seen.append(run)
        raise PrismError("far enough")

    monkeypatch.setattr(headless, "run_notebooks", stop)
    continued = ("run", "--run", "b", "--runs-dir", tmp_path / "runs", "--set", "student_seeds=3")
    result = call(monkeypatch, capsys, *continued)
    assert (result.code, result.err) == (1, "error: far enough\n")
    assert seen[0].settings.plain() == {**begun.settings.plain(), "student_seeds": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("import SET", "Missing option '--run'"),
        ("import SET --run new", "a new run needs a preset"),
        ("import SET --run new --preset digits_quick --set ipc=3", "but ipc is 3"),
        ("import SET --run new --preset digits_quick --as prism", "a method 'prism' already"),
        ("import SET --run new --preset digits_quick --as delt", "that is a recipe of the kit"),
        ("import nowhere --run new --preset digits_quick", "does not exist"),
        ("import TABLE --run new --preset digits_quick", "no column of labels"),
        (
            "import TEN --run new --preset digits_quick",
            "numbered as class 10, which is not a class",
        ),
        ("import --run new --preset digits_quick", "name one set of images: FOLDER, or --indices"),
        (
            "import --indices TABLE --resize --run new --preset digits_quick",
            "leave one of the two",
        ),
    ],
)
def test_mistakes_end_with_one_message_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    folders = {"SET": write_set(tmp_path / "set", PUBLISHED)}
    folders["TEN"] = write_set(tmp_path / "ten", PUBLISHED, classes=11)
    folders["TABLE"] = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": [b""]}), folders["TABLE"])
    words = [str(folders.get(word, word)) for word in arguments.split()]
    result = call(monkeypatch, capsys, *words, "--runs-dir", tmp_path / "runs")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.out + result.err
    assert not (tmp_path / "runs").exists()
