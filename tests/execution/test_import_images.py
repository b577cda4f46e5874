"""Importing images into a run: as a further method, once, and never over another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_nb.core import unit_plan
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.yaml_io import write_yaml
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.exchange import import_images
from prism_nb.execution.study import StudyFolder, check_study
from tests.helpers.image_sets import (
    SETTINGS,
    begin_run,
    hash_of,
    picture,
    pixel_hashes,
    write_set,
)

PUBLISHED = "new{c:03d}/class{c:03d}_id{s:03d}.png"
OWN = "{c:05d}/{c:05d}_{s:04d}.png"


def import_new(path: Path, tmp_path: Path, **changes: object) -> Run:
    """Import a set into a new run."""
    run, _ = import_images(
        path,
        run_name="b",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={**SETTINGS, **changes},
    )
    return run


def test_a_new_run_has_the_sets_ipc_and_pixels(tmp_path: Path) -> None:
    run = import_new(write_set(tmp_path / "set", PUBLISHED, ipc=2), tmp_path)
    assert run.settings.ipc == 2
    assert run.settings.methods == ("random_real", "imported")
    assert pixel_hashes(run, "imported") == {
        OWN.format(c=c, s=s): hash_of(picture(100 * c + s)) for c in range(10) for s in range(2)
    }
    assert pipeline.finished_methods(run) == ["imported"]


def test_a_set_that_does_not_fit_begins_no_run(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    (folder / "new009").rename(folder / "new010")
    with pytest.raises(UsageError, match="'new010' is none of the 10 classes"):
        import_new(folder, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_set_joins_a_run_and_leaves_its_results_alone(tmp_path: Path) -> None:
    run = begin_run(tmp_path / "runs")
    before = pixel_hashes(run, "random_real")
    folder = write_set(tmp_path / "set", PUBLISHED)
    where = {"run_name": "a", "runs_dir": tmp_path / "runs"}
    joined, outcome = import_images(folder, method="theirs", **where)
    assert (outcome.made, outcome.skipped) == (1, 0)
    assert joined.settings.methods == ("random_real", "theirs")
    assert pixel_hashes(joined, "random_real") == before
    again, outcome = import_images(folder, method="theirs", **where)
    assert (outcome.made, outcome.skipped) == (0, 1)
    assert again.settings == joined.settings


def test_a_method_with_other_images_keeps_its_name(tmp_path: Path) -> None:
    begin_run(tmp_path / "runs")
    folder = write_set(tmp_path / "set", PUBLISHED)
    import_images(folder, run_name="a", runs_dir=tmp_path / "runs")
    other = write_set(tmp_path / "other", PUBLISHED)
    for method in ("random_real", "imported"):
        with pytest.raises(UsageError, match=f"a method '{method}' already, with other images"):
            import_images(other, run_name="a", method=method, runs_dir=tmp_path / "runs")


def test_the_source_is_not_needed_once_images_are_imported(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", PUBLISHED)
    import_new(folder, tmp_path, methods=["imported"])
    folder.rename(tmp_path / "gone")
    changed = {"students": ["test_byobnet"]}
    run = open_run_module.open_run(run_name="b", runs_dir=tmp_path / "runs", changes=changed)
    assert run.settings.students == ("test_byobnet",)
    (run.path / "synthesis" / "imported" / "images" / "00000" / "00000_0000.png").unlink()
    changed = {"students": ["test_resnet"]}
    with pytest.raises(UsageError, match="no folder or archive at"):
        open_run_module.open_run(run_name="b", runs_dir=tmp_path / "runs", changes=changed)


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


def test_a_study_compares_a_set_with_searched_methods(tmp_path: Path) -> None:
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
    check_study(opened)
    (folder / "new000" / "class000_id000.png").unlink()
    with pytest.raises(UsageError, match="has 1 images of class 0"):
        check_study(opened)
