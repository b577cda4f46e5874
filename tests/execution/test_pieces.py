"""A method's relabelling shared among workers leaves the files that one worker leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
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
from prism_nb.core.unit_plan import label_paths, label_shards, label_unit, method_units
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation import relabel as labels_work
from prism_nb.execution import backends, pipeline
from prism_nb.execution.progress import StageProgress
from prism_nb.execution.worker import Outcome
from prism_nb.models.ensemble import EnsembleLabeler
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis import stage as synthesis_work

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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that has images; the network that labels them is made up."""
    settings = load_settings("digits_quick", SMALL)
    run = Run.create(tmp_path / "r", settings)
    run.write_classes(open_dataset(settings).class_records())
    for unit in method_units(run, METHOD, 10):
        synthesis_work.run_unit(run, unit, lambda _: None)()
    monkeypatch.setattr(
        labels_work, "load_labeler", lambda run: EnsembleLabeler(run.settings, [_teacher()], [0.5])
    )
    return run


@cache
def _teacher() -> Teacher:
    with seeded(0, CPU):
        return untrained_teacher(
            "test_resnet", open_dataset(load_settings("digits_quick", SMALL)), CPU
        )


def label(run: Run, on_event: Callable[[dict[str, Any]], None] | None = None) -> Outcome:
    return pipeline.execute_units(run, "relabel", [label_unit(run, METHOD, 10)], on_event)


def shared(run: Run, workers: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the run with workers, which do their units in this process."""
    round_robin = "prism_nb.execution.worker:run_backend_process"
    monkeypatch.setitem(backends._BACKENDS, "slurm", round_robin)
    values = {**run.settings.plain(), "backend": "slurm", "workers": workers}
    return Run(run.path, type(run.settings).parse(values, where="test"))


def hashes(run: Run) -> dict[str, str]:
    return {path: fileio.sha256(run.file(path)) for path in label_paths(run.settings, METHOD)}


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_pieces_leave_the_files_that_one_worker_leaves(
    run: Run, statistics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**run.settings.plain(), "label_statistics": statistics}
    run = run.with_settings(type(run.settings).parse(values, where="test"))
    label(run)
    expected = hashes(run)
    assert len(set(expected.values())) == 5
    unit = label_unit(run, METHOD, 10)
    for path in [*expected, unit.marker]:
        run.file(path).unlink()
    events: list[dict[str, Any]] = []
    outcome = label(shared(run, 2, monkeypatch), events.append)
    assert hashes(run) == expected
    assert (outcome.kept, outcome.made) == (0, 1)
    ended = [event["unit"] for event in events if event["event"] == "end"]
    first, second = f"{METHOD}/epochs0000-0002", f"{METHOD}/epochs0003-0004"
    assert ended == [first, second, METHOD]
    steps = [(e["unit"], e["step"], e["steps"]) for e in events if e["event"] == "step"]
    assert steps[:5] == [(first, n, 3) for n in (1, 2, 3)] + [(second, n, 2) for n in (1, 2)]
    assert not run.file(f"labels/{METHOD}/pieces").exists()


def test_pieces_that_are_done_are_kept_and_count_for_no_unit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = label_shards(run, label_unit(run, METHOD, 10), 5)
    labels_work.label_shard(run, cut[1], lambda _: None)
    written = run.file(label_paths(run.settings, METHOD)[1]).stat().st_mtime_ns
    events: list[dict[str, Any]] = []
    shares: list[float] = []
    progress = StageProgress(1, lambda share, _: shares.append(share))

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        progress(event)
        if event["event"] == "end" and event.get("parent"):
            shares.append(-progress._done)

    label(shared(run, 5, monkeypatch), listen)
    assert [e["unit"] for e in events if e["event"] == "kept"] == [cut[1].name]
    assert run.file(label_paths(run.settings, METHOD)[1]).stat().st_mtime_ns == written
    assert [share for share in shares if share <= 0] == [0] * 4
    assert shares[-1] == 1


def test_unit_that_is_done_is_not_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    label(run)
    monkeypatch.setattr(labels_work, "label_shard", refuse)
    again = label(shared(run, 4, monkeypatch))
    assert (again.kept, again.made) == (1, 0)


def refuse(*_: object) -> None:
    raise PrismError("a piece was done again")


@given(st.integers(1, 400), st.integers(1, 80))
@hypothesis_settings(deadline=None, max_examples=50)
def test_pieces_cover_every_epoch_once_and_are_at_most_so_many(epochs: int, count: int) -> None:
    run = Run(Path("r"), load_settings("digits_quick", {"label_epochs": epochs}))
    unit = label_unit(run, "prism", 10)
    cut = label_shards(run, unit, count)
    covered = [epoch for piece in cut for epoch in range(*piece.params["epochs"])]
    assert covered == (list(range(epochs)) if cut else [])
    assert len(cut) <= count
    assert len(cut) != 1
    assert len({piece.fingerprint for piece in cut} | {unit.fingerprint}) == len(cut) + 1


def test_labels_that_are_not_stored_are_not_cut() -> None:
    run = Run(Path("r"), load_settings("digits_quick", {"labels": "online"}))
    assert label_shards(run, label_unit(run, "prism", 10), 8) == []
