"""What verify finds, and what it lets stand."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.evaluation import label_store
from prism_nb.execution import pipeline, verify
from prism_nb.execution.verify import Finding, clean, verify_run
from tests.helpers.image_sets import begin_run

IMAGE = "synthesis/random_real/images/00003/00003_0001.png"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with images and the labels of an untrained look at them."""
    changes = {"squeeze_epochs": 1, "label_epochs": 2, "holdout_networks": []}
    run = begin_run(tmp_path_factory.mktemp("verify"), feature_networks=["test_resnet"], **changes)
    for stage in ("squeeze", "relabel"):
        pipeline.execute(run, stage)
    return run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    shutil.copytree(made.path, tmp_path / made.name)
    return Run(tmp_path / made.name, made.settings)


def found(run: Run) -> list[tuple[str, str]]:
    return [(each.kind, each.where) for each in verify_run(run).findings]


def only(run: Run) -> Finding:
    (finding,) = verify_run(run).findings
    return finding


def test_whole_run_has_no_findings_and_its_units_are_counted(run: Run) -> None:
    verdict = verify_run(run)
    assert verdict.findings == ()
    assert verdict.whole["synthesis"] == (1, 1)
    assert verdict.whole["evaluation"][0] == 0
    assert verdict.whole["evaluation"][1] > 0


def test_changed_image_is_damage_and_makes_what_it_feeds_no_staler_than_it_is(run: Run) -> None:
    path = run.file(IMAGE)
    path.write_bytes(path.read_bytes()[:-1])
    assert found(run) == [("damaged", "synthesis unit random_real/images000-001_classes000-009")]
    assert "has changed" in only(run).what
    assert "prism-nb run --run" in only(run).remedy


def test_image_that_no_unit_has_made_is_a_stray(run: Run) -> None:
    fileio.write_bytes(run.file("synthesis/random_real/images/00003/00003_0002.png"), b"x")
    assert found(run) == [("stray", "synthesis/random_real/images/00003/00003_0002.png")]


def test_other_class_order_is_damage_that_names_the_class(run: Run) -> None:
    path = run.file("classes.json")
    order = json.loads(path.read_text())
    order[4]["name"] = "nine"
    fileio.write_json(path, order)
    finding = next(each for each in verify_run(run).findings if each.where == "classes.json")
    assert finding.kind == "damaged"
    assert "class 4 is {'folder': '4', 'index': 4, 'name': 'nine'} here" in finding.what


def test_labels_of_other_images_are_damage_even_under_a_whole_marker(run: Run) -> None:
    """A marker forged over label files of another run is told by what the files say themselves."""
    (unit,) = pipeline.stage_units(run, "relabel")
    epoch = run.file("labels/random_real/epoch_0001.safetensors")
    content = bytearray(epoch.read_bytes())
    place = content.index(b"prism-nb labels 2") + 24
    content[place : place + 4] = b"beef"
    epoch.write_bytes(content)
    run.finish(unit, paths=run.files_of(unit), record={})
    assert found(run) == [("damaged", "labels unit random_real")]


def test_labels_are_verified_where_the_dataset_is_not_at_hand(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise PrismError("the disk is not there")

    for module in (verify, label_store):
        monkeypatch.setattr(module, "open_dataset", gone)
    assert found(run) == [("not checked", "classes.json")]


def test_leftovers_are_harmless_and_cleaned(run: Run) -> None:
    part = run.file("labels/random_real/.epoch_0000.safetensors.abcd.part")
    part.write_bytes(b"half")
    assert found(run) == []  # somebody may be writing it
    assert clean(run) == 0
    os.utime(part, (1, 1))
    dead = {"host": "elsewhere", "space": "s", "process": 1, "begun": "1", "token": "t"}
    lease = run.file("locks/labels/random_real.json")
    fileio.write_json(lease, dead)
    os.utime(lease, (1, 1))
    assert [kind for kind, _ in found(run)] == ["leftover", "leftover"]
    assert verify_run(run).damages == 0
    assert clean(run) == 2
    assert found(run) == []


def test_what_cannot_be_removed_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    part = run.file("labels/.x.part")
    part.write_bytes(b"half")
    os.utime(part, (1, 1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        PrismError, match=rf"cannot remove {part}: Read-only file system; it does no harm"
    ):
        clean(run)


def test_pieces_of_labels_that_are_whole_are_left_over(run: Run) -> None:
    piece = run.file("labels/random_real/pieces/epochs0000-0001.json")
    fileio.write_json(piece, {})
    fileio.write_json(run.file("labels/another/pieces/epochs0000-0001.json"), {})  # at work
    assert clean(run) == 1
    assert not piece.exists()


@pytest.mark.parametrize("name", ["labels", "labels/prism"])  # a driver, or a job without one
def test_nothing_is_cleaned_while_somebody_works(run: Run, name: str) -> None:
    part = run.file("labels/.x.part")
    part.write_bytes(b"half")
    with (
        run.lease(f"{name}.json", "relabel"),
        pytest.raises(PrismError, match=f"{name} of .* is being worked on by process"),
    ):
        clean(run)
    assert part.exists()


def test_class_order_that_cannot_be_compared_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise PrismError("the disk is not there")

    monkeypatch.setattr(verify, "open_dataset", gone)
    finding = verify_run(run).findings[0]
    assert finding.kind == "not checked"
    assert "the disk is not there" in finding.what
