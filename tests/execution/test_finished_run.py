"""A finished run is opened and looked at without a write, as in a folder for reading alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["random_real"],
    "ipc": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = open_run_module.open_run(
        run_name="r",
        preset="digits_quick",
        runs_dir=tmp_path_factory.mktemp("runs"),
        changes=SMALL,
    )
    for stage in ("squeeze", "synthesis"):
        pipeline.execute(run, stage)
    return run


@pytest.fixture
def finished(made: Run, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(made.path, tmp_path / "r"))


def times(run: Run) -> dict[Path, int]:
    """When each file and folder of a run was changed."""
    return {path: path.stat().st_mtime_ns for path in (run.path, *run.path.rglob("*"))}


def reopened(run: Run) -> Run:
    return open_run_module.open_run(run_name=run.name, runs_dir=run.path.parent)


def test_what_is_done_is_kept_without_a_write(finished: Run) -> None:
    before = times(finished)
    again = reopened(finished)
    for stage in ("squeeze", "synthesis"):
        outcome = pipeline.execute(again, stage)
        assert (outcome.made, outcome.kept) == (0, len(pipeline.stage_units(again, stage)))
    assert times(finished) == before


def test_a_file_that_is_damaged_is_made_again_all_the_same(finished: Run) -> None:
    path = finished.file(image_path("random_real", 3, 0))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert pipeline.execute(reopened(finished), "synthesis").made == 1
    assert path.read_bytes() == whole


def test_a_driver_at_work_is_no_obstacle_where_nothing_is_left(finished: Run) -> None:
    with finished.lock("synthesis"):
        assert pipeline.execute(reopened(finished), "synthesis").made == 0


def test_an_entry_of_the_manifest_that_is_new_is_written(finished: Run) -> None:
    finished.update_manifest(preflight="other")
    before = times(finished)
    finished.update_manifest(preflight="other")
    assert times(finished) == before
    reopened(finished)
    assert finished.manifest()["preflight"] != "other"
