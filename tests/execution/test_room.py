"""A run is begun only where the disks hold all that is left of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prism_nb.cli import format_disk
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.execution import cost, forecast, pipeline
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution.cost import check_disk_space
from prism_nb.execution.pipeline import StagePlan


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    changes = {"methods": ["random_real"], "students": ["test_resnet"], "student_seeds": 1}
    return open_run_module.load_run(
        preset="digits_quick", runs_dir=tmp_path / "runs", changes=changes
    )


def free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))


def needed(run: Run) -> dict[str, int]:
    return {s: pipeline.plan(run, s, deep=False).disk_bytes for s in pipeline.STAGES}


def test_a_disk_that_holds_some_stages_alone_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = needed(run)
    assert parts["diversity"] == 0
    assert all(parts[s] for s in ("squeeze", "synthesis", "relabel", "evaluation"))
    free(monkeypatch, sum(parts.values()) - 1)
    with pytest.raises(PrismError, match=r"still needs up to .* at .*runs/digits_quick \(teachers"):
        check_disk_space(run)
    free(monkeypatch, sum(parts.values()))
    check_disk_space(run)
    assert not run.path.exists()


def test_what_is_there_already_needs_no_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Run.create(run.path, run.settings)
    open_run_module.open_run(run_name=made.name, runs_dir=made.path.parent)
    before = needed(made)
    pipeline.execute(made, "squeeze")
    after = needed(made)
    assert after == {**before, "squeeze": 0}
    free(monkeypatch, sum(after.values()))
    check_disk_space(made)
    labels = made.file("labels/random_real/epoch_0000.safetensors")
    labels.parent.mkdir(parents=True)
    labels.write_bytes(bytes(1000))  # an epoch of a labelling that was killed
    free(monkeypatch, sum(after.values()) - 1000)
    check_disk_space(made)


def test_the_cache_is_asked_for_where_it_lies(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "cache_bytes", lambda *_: 5_000_000_000)
    parts = sum(needed(run).values())
    free(monkeypatch, 5_000_000_000 + parts - 1)
    with pytest.raises(PrismError, match=r"decoded images 5\.0 GB\), but 5\.0 GB are free"):
        check_disk_space(run)  # on one disk, both
    monkeypatch.setattr(cost, "_is_one_disk", lambda *_: False)
    check_disk_space(run)
    free(monkeypatch, 4_000_000_000)
    with pytest.raises(PrismError, match=r"up to 5\.0 GB at .*cache .*set PRISM_CACHE"):
        check_disk_space(run)


def test_each_stage_adds_to_the_cache_what_none_before_has(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"a": 3, "b": 5}

    def each_once(_: object, units: Any) -> int:
        return sum(sizes[name] for name in {*units})

    monkeypatch.setattr(forecast, "cache_bytes", each_once)
    stages: Any = [["a"], [], ["a", "b"], ["b"]]
    run: Any = None
    assert forecast.cache_bytes_per_stage(run, stages) == [3, 0, 5, 0]


def test_a_plan_of_all_stages_adds_up() -> None:
    plans = [StagePlan("a", (), 0, None, 2 * 10**9, None, 10**9) for _ in range(2)]
    assert format_disk(plans) == "6.0 GB to be written at most, 2.0 GB of it in the cache"
