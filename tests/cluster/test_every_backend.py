"""Every stage on every backend: the files are those of one process, byte for byte."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contents import contents
from prism_nb.core.run import Run
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline, slurm_backend
from prism_nb.execution.ray_backend import local_cluster

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "squeeze_batch": 600,
    "methods": ["prism"],  # one, so that two workers share its relabelling by epochs
    "ipc": 1,
    "batch_size": 5,
    "recipe": {"iterations": 2},
    "label_epochs": 2,
    "students": ["test_resnet"],
    "student_seeds": 2,
    "evaluate_every": 2,
    "real_per_class": 5,
    "image_size": 16,
    "device": "cpu",
    "threads": 1,
    "workers": 2,
}


def carried_out(folder: Path, **changes: Any) -> Run:
    """A run of every stage, in a folder of its own, where it finds no other run's teachers."""
    run = open_run_module.open_run(
        run_name="r", preset="digits_quick", runs_dir=folder, changes={**SMALL, **changes}
    )
    for stage in pipeline.STAGES:
        pipeline.execute(run, stage)
        assert not pipeline.plan(run, stage).missing
    return run


def begun(run: Run, stage: str) -> list[str]:
    return sorted(event["unit"] for event in run.events(stage) if event["event"] == "begin")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes."""
    return contents(carried_out(tmp_path_factory.mktemp("process")))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_of_ray_make_the_same_files(expected: dict[str, Any], tmp_path: Path) -> None:
    with local_cluster(cpus=2, gpus=0) as address:
        run = carried_out(tmp_path, backend="ray", ray_address=address)
    assert contents(run) == expected
    assert begun(run, "labels") == ["prism", "prism/epochs0000-0000", "prism/epochs0001-0001"]
    for stage in pipeline.STAGES:
        logs = list(run.path.glob(f"logs/{stage}/*.log"))
        assert len(logs) == len(begun(run, stage))


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is missing")
def test_jobs_make_the_same_files(
    expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_backend, "_LOOK", 0.1)
    run = carried_out(tmp_path, backend="slurm", slurm={"cluster": "local"})
    assert contents(run) == expected
    assert begun(run, "labels") == ["prism", "prism/epochs0000-0000", "prism/epochs0001-0001"]
    for stage in pipeline.STAGES:
        arrays = [event["jobs"] for event in run.events(stage) if event["event"] == "submitted"]
        assert [len(array) for array in arrays] == ([2, 1] if stage == "relabel" else [2])
