"""The state of a synthesis as markers and events tell it, and the previews of its images."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.pipeline import relative_cost
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from prism_nb.viz.monitor import (
    STAGE,
    PreviewSequence,
    Pull,
    RunTracker,
    can_be_stopped,
    device_text,
)
from tests.helpers.synthesis_run import (
    begin_unit,
    finish_units,
    report_shares,
    report_step,
    unit_names,
)

KERNEL = Owner.current()
OTHER = replace(KERNEL, process=KERNEL.process + 1)
REMOTE = replace(KERNEL, pid_namespace="another machine", host="far", process=7)


@pytest.fixture
def driven(run: Run) -> Iterator[Run]:
    """A run whose synthesis another thread of this process drives."""
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        with run.locks.stage(STAGE):
            ready.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(10)
    yield run
    over.set()
    thread.join()


def test_a_driver_is_known_by_its_lock_and_waits_until_something_moves(driven: Run) -> None:
    driven.events.append(STAGE, event="waiting", why="squeue has not answered since 12:00")
    tracker, unit = RunTracker(driven), unit_names(driven)[0]
    assert "Waiting: squeue has not answered since 12:00." in tracker.read().message
    begin_unit(driven, unit)
    assert (tracker.read().unit, tracker.at_work.step, tracker.at_work.steps) == (unit, 5, 20)
    assert "this notebook's kernel" in tracker.message
    assert "Waiting" not in tracker.message


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ([{"event": "stopped"}], "No units yet."),
        ([{"event": "failed", "reason": "no disk"}], "Failed: no disk. Finished units are kept;"),
        ([], "Failed: the process ended without a message: killed, or out of memory."),
    ],
)
def test_the_end_of_a_driver(run: Run, end: list[dict[str, str]], message: str) -> None:
    unit = unit_names(run)[0]
    begin_unit(run, unit)
    for event in end:
        run.events.append(STAGE, **event)
        report_step(run, unit, 6, 1.0)  # of a worker that outlives its driver
    tracker = RunTracker(run).read()
    assert tracker.message.startswith(message)
    assert tracker.at_work.step == (6 if end else 0)


def test_drivers_elsewhere_are_named_and_cannot_be_stopped(run: Run) -> None:
    tracker = RunTracker(run)
    tracker.driver = OTHER
    assert tracker.message.endswith("on this machine.")
    tracker.driver = REMOTE
    assert device_text(run.settings, STAGE, REMOTE) == "device auto · fp32"  # not of this machine
    assert "process 7 on far; it can be stopped only there" in tracker.message
    assert [can_be_stopped(owner) for owner in (None, KERNEL, OTHER, REMOTE)] == [
        *(False, False, True, False)
    ]


def test_done_units_are_known_by_markers_then_events(run: Run) -> None:
    finish_units(run, 1)
    tracker, second = RunTracker(run), unit_names(run)[1]
    assert len(tracker.read().done) == 1
    for kind, unit, done in (
        ("unit_end", "gvbsm/of-other-settings", 1),
        ("unit_end", second, 2),
        ("unit_start", second, 1),
        ("unit_skipped", second, 2),
    ):
        run.events.append(STAGE, event=kind, unit=unit, seconds=4.0)
        assert len(tracker.read().done) == done
    run.file(pipeline.stage_units(run, STAGE)[0].marker).unlink()
    with run.locks.stage(STAGE):  # a driver that comes has markers read again
        assert len(tracker.read().done) == 0


def test_progress_does_not_fall_between_units(driven: Run) -> None:
    first, second = unit_names(driven)[:2]
    begin_unit(driven, first)
    tracker, shares = RunTracker(driven), list[float]()
    for event in (
        {"event": "step", "unit": first, "step": 20, "steps": 20},
        {"event": "unit_start", "unit": second},  # while files of the first are being written
        {"event": "step", "unit": second, "step": 4, "steps": 20},
        {"event": "unit_end", "unit": first, "seconds": 1.0},
    ):
        driven.events.append(STAGE, **event)
        shares.append(tracker.read().share * len(tracker.units))
    assert shares == pytest.approx([1.0, 1.0, 1.2, 1.2])


def test_damaged_units_are_missing_as_in_the_plan(run: Run) -> None:
    units = pipeline.stage_units(run, STAGE)
    finish_units(run, len(units))
    assert "Finished: all" in RunTracker(run).read().message
    run.file(units[0].marker).unlink()
    run.file(units[1].marker).write_bytes(b"garbage")
    run.file(f"{STAGE}/{units[2].name}.bin").unlink()
    state = RunTracker(run).read()
    assert state.missing == pipeline.state(run, STAGE).missing == 3


def test_losses_are_those_of_the_newest_unit(driven: Run) -> None:
    first, second = unit_names(driven)[:2]
    begin_unit(driven, first)
    tracker = RunTracker(driven)
    assert tracker.read().losses == {"bn/net": [(5, 2.0)]}
    driven.events.append(STAGE, event="unit_start", unit=second)
    tracker.read()
    assert (tracker.unit, tracker.losses_of) == (second, first)
    for step in (6, 7):
        report_step(driven, second, step, 4.0)
        report_step(driven, first, step, 1.0)
    assert tracker.read().losses == {"bn/net": [(6, 4.0), (7, 4.0)]}
    driven.events.append(STAGE, event="unit_start", unit=second)
    report_step(driven, second, 1, 9.0)
    assert tracker.read().losses == {"bn/net": [(1, 9.0)]}


def test_pulls_are_those_of_the_units_at_work_then_of_all(tmp_path: Path, run: Run) -> None:
    run = Run.create(tmp_path / "two", run.settings.replace(batch_size=10, ipc=2))
    first, second = [name for name in unit_names(run) if name.startswith("prism/")]
    tracker = RunTracker(run)
    assert tracker.read().pulls == {}
    with run.locks.stage(STAGE):
        begin_unit(run, first)
        report_shares(run, first, 0, a=0.9, b=0.1)
        report_shares(run, first, 4, a=0.75, b=0.25)
        report_shares(run, "gvbsm/of-other-settings", 8, a=1.0)
        assert tracker.read().pulls == {"prism": Pull({"bn/a": 0.75, "bn/b": 0.25}, 1, 4)}
        run.events.append(STAGE, event="unit_start", unit=second)
        report_shares(run, second, 0, b=0.5, c=0.5)
        both = Pull({"bn/a": 0.375, "bn/b": 0.375, "bn/c": 0.25}, 2, 0)
        assert tracker.read().pulls == {"prism": both}
        run.events.append(STAGE, event="unit_end", unit=first)
        assert tracker.read().pulls == {"prism": Pull({"bn/b": 0.5, "bn/c": 0.5}, 1, 0)}
        assert (tracker.at_work.step, tracker.losses_of) == (0, first)  # as without shares
        run.events.append(STAGE, event="unit_end", unit=second)
        assert tracker.read().pulls == {"prism": both}


def test_a_pull_stays_until_the_next_unit_is_measured(tmp_path: Path, run: Run) -> None:
    run = Run.create(tmp_path / "two", run.settings.replace(batch_size=10, ipc=2))
    first, second = [name for name in unit_names(run) if name.startswith("prism/")]
    begin_unit(run, first)
    report_shares(run, first, 16, a=1.0)
    run.events.append(STAGE, event="unit_end", unit=first)
    run.events.append(STAGE, event="unit_start", unit=second)
    assert RunTracker(run).read().pulls == {"prism": Pull({"bn/a": 1.0}, 1, 16)}


def test_time_left_goes_by_the_pace_of_what_is_done(driven: Run) -> None:
    units = {name.partition("/")[0]: name for name in unit_names(driven)}
    log = driven.path / "events" / f"{STAGE}.jsonl"
    events = [
        {"time": 1.0, "event": "unit_start", "unit": units["prism"]},
        {"time": 11.0, "event": "unit_end", "unit": units["prism"], "seconds": 10.0},
        {"time": 11.0, "event": "unit_start", "unit": units["sre2l"]},
        {"time": 15.0, "event": "step", "unit": units["sre2l"], "step": 10, "steps": 20},
    ]
    tracker = RunTracker(driven)
    assert tracker.read().seconds_left is None
    fileio.write_text(log, "".join(json.dumps(event) + "\n" for event in events))
    every = pipeline.stage_units(driven, STAGE)
    costs = {u.params["method"]: relative_cost(driven.settings, u) for u in every}
    pace = (10.0 + 4.0) / (costs["prism"] + costs["sre2l"] / 2)
    left = pace * (costs["sre2l"] / 2 + costs["random_real"])
    assert tracker.read().seconds_left == pytest.approx(left)


# -- previews --------------------------------------------------------------------------------


def test_a_picture_is_cut_into_images(tmp_path: Path) -> None:
    schedule = TeacherSchedule(10, (("a",), ("b",)), ("c",))
    sequence = PreviewSequence(tmp_path, "u", 20, ((0, 0), (1, 0)), schedule, (4,))
    Image.new("RGB", (16, 8), "red").save(tmp_path / "000004.png")
    assert len(sequence.tiles(4)) == 2
    (tmp_path / "000004.png").write_bytes(b"no picture")
    assert sequence.tiles(4) == []
    assert sequence.tiles(5) == []
    assert [sequence.teachers_at(step) for step in (0, 10, 11)] == [("a",), ("a",), ("b",)]
    assert sequence.logit_teachers_at(10) == ("c",)
