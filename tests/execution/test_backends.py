"""The backends' common entry: this process's threads, and large units shared among workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.device import seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import (
    label_paths,
    label_shards,
    label_unit,
    method_units,
    squeeze_units,
)
from prism_nb.core.units import Unit
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation import relabel
from prism_nb.execution import backends, pipeline, worker
from prism_nb.execution.progress import StageProgress
from prism_nb.models.ensemble import EnsembleLabeler
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis import stage as synthesis_stage
from tests.helpers.slurm_work import units_of

CPU = torch.device("cpu")
METHOD = "random_real"
SMALL = {
    "methods": [METHOD],
    "teachers": ["test_resnet"],
    "squeeze_epochs": 1,
    "squeeze_batch": 256,
    "image_size": 16,
    "label_epochs": 5,
    "label_batch": 7,
    "device": "cpu",
    "progress": False,
}


def test_threads_are_set_for_a_stage_and_restored(run: Run) -> None:
    before, used = torch.get_num_threads(), list[int]()
    asked = Run(run.path, run.settings.model_copy(update={"threads": before + 2}))

    def work(run: Run, unit: Unit, _: Any) -> None:
        used.append(torch.get_num_threads())
        raise PrismError("a failed unit")

    with pytest.raises(PrismError, match="a failed unit"):
        backends.run_units(asked, units_of(1), work, lambda _: None)
    assert used == [before + 2]
    assert torch.get_num_threads() == before


def test_units_that_read_others_come_after_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def record(run: Run, units: list[Unit], run_unit: worker.RunUnit) -> int:
        calls.append([unit.name for unit in units])
        return len(units)

    monkeypatch.setitem(backends._BACKENDS, "ray", record)
    changes = {"backend": "ray", "methods": ["gvbsm", "psm"]}
    asked = Run(run.path, load_settings("digits_quick", changes))
    units = squeeze_units(asked, 10)
    assert backends.run_units(asked, units, lambda *_: None, lambda _: None) == 10
    assert calls == [[unit.name for unit in part] for part in (units[:5], units[5:])]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that has images, labelled by an untrained network."""
    settings = load_settings("digits_quick", SMALL)
    run = Run.create(tmp_path / "r", settings)
    run.write_classes(open_dataset(settings).class_records())
    for unit in method_units(run, METHOD, 10):
        synthesis_stage.run_unit(run, unit, lambda _: None)()
    monkeypatch.setattr(
        relabel, "load_labeler", lambda run: EnsembleLabeler(run.settings, [_teacher()], [0.5])
    )

    def run_here(run: Run, units: list[Unit], run_unit: worker.RunUnit) -> int:
        """Do what several workers would do."""
        log = partial(run.events.append, "relabel")
        call = worker.run_units_sequentially
        return call(run, units, run_unit, lambda event: log(**event))

    monkeypatch.setitem(backends._BACKENDS, "slurm", run_here)
    return run


@cache
def _teacher() -> Teacher:
    dataset = open_dataset(load_settings("digits_quick", SMALL))
    with seeded(0, CPU):
        return untrained_teacher("test_resnet", dataset, CPU)


def label(run: Run, on_event: Callable[[dict[str, Any]], None] | None = None) -> pipeline.Outcome:
    return pipeline.execute_units(run, "relabel", [label_unit(run, METHOD, 10)], on_event)


def shared(run: Run, workers: int) -> Run:
    values = {**run.settings.plain(), "backend": "slurm", "workers": workers}
    return run.with_settings(type(run.settings).parse(values, where="test"))


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_shards_leave_the_files_of_one_worker(images: Run, statistics: str) -> None:
    values = {**images.settings.plain(), "label_statistics": statistics}
    images = images.with_settings(type(images.settings).parse(values, where="test"))

    def hashes() -> dict[str, str]:
        return {p: fileio.sha256(images.file(p)) for p in label_paths(images.settings, METHOD)}

    label(images)
    expected = hashes()
    assert len(set(expected.values())) == 5
    for path in [*expected, label_unit(images, METHOD, 10).marker]:
        images.file(path).unlink()
    events: list[dict[str, Any]] = []
    outcome = label(shared(images, 2), events.append)
    assert hashes() == expected
    assert (outcome.skipped, outcome.made) == (0, 1)
    first, second = f"{METHOD}/epochs0000-0002", f"{METHOD}/epochs0003-0004"
    ended = [event["unit"] for event in events if event["event"] == "unit_end"]
    assert ended == [first, second, METHOD]
    steps = [(e["unit"], e["step"], e["steps"]) for e in events if e["event"] == "step"]
    assert steps[:5] == [(first, n, 3) for n in (1, 2, 3)] + [(second, n, 2) for n in (1, 2)]
    assert not images.file(f"labels/{METHOD}/pieces").exists()


def test_finished_shards_are_kept_and_count_as_no_unit(
    images: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = label_shards(images, label_unit(images, METHOD, 10), 5)
    relabel.run_unit(images, shards[1], lambda _: None)
    written = images.file(label_paths(images.settings, METHOD)[1]).stat().st_mtime_ns
    events, shares = list[dict[str, Any]](), list[float]()
    label(shared(images, 5), events.append)
    assert [e["unit"] for e in events if e["event"] == "unit_skipped"] == [shards[1].name]
    assert images.file(label_paths(images.settings, METHOD)[1]).stat().st_mtime_ns == written
    progress = StageProgress(2, lambda share, _: shares.append(share))
    for event in events:
        progress(event)
    assert shares[-1] == 0.5  # the labels are one unit, and its shards are none
    # A finished unit is not split.
    monkeypatch.delattr(relabel, "load_labeler")
    again = label(shared(images, 4))
    assert (again.skipped, again.made) == (1, 0)


@given(st.integers(1, 400), st.integers(1, 80))
@hypothesis_settings(deadline=None, max_examples=50)
def test_shards_cover_every_epoch_once(epochs: int, count: int) -> None:
    run = Run(Path("r"), load_settings("digits_quick", {"label_epochs": epochs}))
    unit = label_unit(run, "prism", 10)
    shards = label_shards(run, unit, count)
    covered = [epoch for shard in shards for epoch in range(*shard.params["epochs"])]
    assert covered == (list(range(epochs)) if shards else [])
    assert len(shards) <= count
    assert len(shards) != 1
    assert len({shard.fingerprint for shard in shards} | {unit.fingerprint}) == len(shards) + 1
