"""A finished run opens without a write, and what it lacks is made again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run

FINISHED: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["random_real"],
    "ipc": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    run = open_run(run_name="r", preset="digits_quick", runs_dir=folder, changes=FINISHED)
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
    return open_run(run_name=run.name, runs_dir=run.path.parent)


def test_a_finished_run_is_opened_and_executed_without_a_write(finished: Run) -> None:
    before = times(finished)
    again = reopened(finished)
    for stage in ("squeeze", "synthesis"):
        outcome = pipeline.execute(again, stage)
        assert (outcome.made, outcome.skipped) == (0, len(pipeline.stage_units(again, stage)))
    assert times(finished) == before


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("synthesis", image_path("random_real", 3, 0)),
        ("squeeze", "teachers/test_byobnet.safetensors"),
    ],
)
def test_a_damaged_file_of_a_finished_run_is_made_again(
    finished: Run, stage: str, path: str
) -> None:
    file = finished.file(path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert pipeline.execute(reopened(finished), stage).made == 1
    assert file.read_bytes() == whole


def test_a_stage_whose_inputs_are_missing_is_refused(finished: Run) -> None:
    shutil.rmtree(finished.path / "synthesis")
    with pytest.raises(PrismError, match="stage synthesis .* not complete.*02_synthesis"):
        pipeline.execute(finished, "diversity")


def test_the_preflight_is_repeated_for_other_settings_alone(finished: Run) -> None:
    finished.manifest.update(preflight="other")
    reopened(finished)
    passed = finished.manifest.read()["preflight"]
    assert passed != "other"
    before = times(finished)
    reopened(finished)
    assert times(finished) == before
