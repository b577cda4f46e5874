"""Every stage on every backend: the files are those of one process, byte for byte."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run
from prism_nb.execution.ray_backend import local_cluster

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet", "test_vit"],
    "bn_only": ["test_byobnet"],
    "logits_only": ["test_vit"],
    "holdout_networks": [],
    "feature_networks": ["test_resnet"],
    "squeeze_epochs": 1,
    "squeeze_batch": 600,
    "methods": ["prism"],  # one, so that two workers share its relabelling by epochs
    "ipc": 1,
    "batch_size": 5,
    "recipe": {"iterations": 2, "selection": "all", "logits": "round_robin"},
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
SHARED = ("synthesis", "relabel")  # by two workers, each of which imports torch for every stage
SHARDS = ["prism", "prism/epochs0000-0000", "prism/epochs0001-0001"]


def complete(folder: Path, **changes: Any) -> Run:
    """A run of every stage, in a folder of its own, where no other run's teachers are found."""
    asked = {**SMALL, **changes}
    run = open_run(run_name="r", preset="digits_quick", runs_dir=folder, changes=asked)
    alone = run.with_settings(run.settings.model_copy(update={"workers": 1}))
    for stage in pipeline.STAGES:
        pipeline.execute(run if stage in SHARED else alone, stage)
        assert not pipeline.state(run, stage).missing
    return run


def contents(run: Run) -> dict[str, Any]:
    """What the units have recorded but their seconds, and the hashes of their files."""
    found: dict[str, Any] = {}
    for stage in pipeline.STAGES:
        for unit in pipeline.stage_units(run, stage):
            record = run.units.record(unit)
            record.pop("seconds", None)
            found[f"{stage} {unit.name}"] = record
            for path in run.units.files(unit):
                if not path.endswith(".json"):  # which repeat the record
                    found[path] = fileio.sha256(run.file(path))
    return found


def started(run: Run, stage: str) -> list[str]:
    return sorted(
        event["unit"] for event in run.events.read(stage) if event["event"] == "unit_start"
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Contents of a run that one process has made."""
    return contents(complete(tmp_path_factory.mktemp("process")))


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_of_ray_make_the_same_files(expected: dict[str, Any], tmp_path: Path) -> None:
    with local_cluster(cpus=2, gpus=0):
        run = complete(tmp_path, backend="ray")
    assert contents(run) == expected
    assert started(run, "relabel") == SHARDS


def test_two_jobs_make_the_same_files(expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    run = complete(tmp_path, backend="slurm", slurm={"cluster": "local"})
    assert contents(run) == expected
    assert started(run, "relabel") == SHARDS
    for stage in pipeline.STAGES:
        arrays = [
            event["jobs"] for event in run.events.read(stage) if event["event"] == "submitted"
        ]
        expected_sizes = {"synthesis": [2], "relabel": [2, 1]}.get(stage, [1])
        assert [len(array) for array in arrays] == expected_sizes
