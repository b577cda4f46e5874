"""The state of a run as its files tell it: who drives it, and how it ended, in words."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.manifest import UnitState
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import pipeline
from prism_nb.viz import monitor
from prism_nb.viz.monitor import (
    STAGE,
    RunState,
    RunTracker,
    StageProcess,
    last_log_line,
    log_path,
    open_for_viewing,
    running_driver,
    version_warning,
)

HERE = StageProcess(os.getpid() + 1, socket.gethostname())
AFAR = StageProcess(7, "far")


@pytest.fixture
def held(run: Run) -> Iterator[Run]:
    """A run whose synthesis another thread drives."""
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        with run.lock(STAGE):
            ready.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(10)
    yield run
    over.set()
    thread.join()


def units_of(run: Run) -> list[str]:
    return [unit.name for unit in pipeline.stage_units(run, STAGE)]


def do(run: Run, count: int) -> None:
    """Finish the first units of the synthesis with a file each, in three seconds."""
    for unit in pipeline.stage_units(run, "squeeze"):
        path = f"teachers/{len(unit.name)}.bin"
        fileio.write_bytes(run.file(path), b"weights")
        run.finish(unit, paths=[path], record={})
    for unit in pipeline.stage_units(run, STAGE)[:count]:
        path = f"synthesis/{unit.name}.bin"
        fileio.write_bytes(run.file(path), b"image")
        run.finish(unit, paths=[path], record={"seconds": 3.0, "images": 20})


def begin(run: Run, unit: str, *, host: str | None = None) -> None:
    host = host or socket.gethostname()
    run.event(STAGE, event="start", process=1, host=host)
    run.event(STAGE, event="unit_start", unit=unit)
    losses = {"bn/net": 2.0}
    run.event(STAGE, event="step", unit=unit, step=5, steps=20, losses=losses)


def test_nothing_yet(run: Run) -> None:
    state = RunTracker(run).read()
    assert (state.status, state.done, state.missing) == ("empty", 0, len(units_of(run)))
    assert "No units yet: press Start" in state.words
    assert state.seconds_left is None
    assert state.curve is None
    assert not state.was_begun


def test_who_drives_it_is_seen_by_the_lock(held: Run) -> None:
    begin(held, units_of(held)[0])
    state = RunTracker(held).read()
    assert state.driver == StageProcess(os.getpid(), socket.gethostname())
    assert state.status == "running"
    assert (state.step, state.steps, state.at_work) == (5, 20, units_of(held)[0])
    assert "this notebook's kernel" in state.words


def test_what_a_driver_waits_for_is_said_until_something_moves(held: Run) -> None:
    held.event(STAGE, event="waiting", why="squeue has not answered since 12:00")
    follower = RunTracker(held)
    assert follower.read().notes == ("Its driver says: squeue has not answered since 12:00.",)
    begin(held, units_of(held)[0])
    assert follower.read().notes == ()


def test_looking_does_not_keep_the_driver_from_starting(run: Run) -> None:
    with run.lock(STAGE):
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            running_driver(run)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            with run.lock(STAGE):
                assert running_driver(run) is not None
    finally:
        over.set()
        thread.join()
    assert running_driver(run) is None


def test_a_driver_that_dies_is_said_to_have_died(run: Run) -> None:
    begin(run, units_of(run)[0])
    state = RunTracker(run).read()
    assert state.status == "died"
    assert units_of(run)[0] in state.words
    assert "Resume continues" in state.words
    assert state.was_begun


def test_events_from_another_machine_tell_of_a_driver_whose_lock_is_not_seen(run: Run) -> None:
    begin(run, units_of(run)[0], host="far")
    state = RunTracker(run).read()
    assert state.status == "elsewhere"
    assert state.is_running
    assert "Driven on far" in state.words
    assert replace(state, age=3600.0).status == "died"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (RunState(2, 0, driver=HERE), "on this machine."),
        (RunState(2, 0, driver=HERE, age=900.0), "15 min old: it may hang"),
        (RunState(2, 0, driver=AFAR), "process 7 on far; it can be stopped there only"),
        (RunState(2, 2, closing="failed"), "all 2 units are done"),
        (RunState(2, 2, unhashed=1), "All 2 units are there; checking the files of 1."),
        (RunState(2, 1, closing="stopped"), "Stopped. Finished units are kept; Resume"),
        (RunState(2, 1, closing="failed", reason="lr diverged"), "Failed: lr diverged."),
        (RunState(2, 1), "Not running."),
    ],
)
def test_every_state_has_its_words(state: RunState, words: str) -> None:
    assert words in state.words


def test_only_what_runs_here_can_be_stopped_here() -> None:
    with pytest.raises(PrismError, match="on far, not on this machine; stop it there"):
        AFAR.stop()


def test_finished_units_are_counted_by_their_markers_and_then_by_events(run: Run) -> None:
    do(run, 1)
    follower = RunTracker(run)
    state = follower.read()
    assert (state.status, state.done) == ("begun", 1)
    assert state.seconds_left is not None
    second = units_of(run)[1]
    begin(run, second)
    assert follower.read().done == 1
    run.event(STAGE, event="unit_end", unit=second, seconds=4.0)
    assert follower.read().done == 2


def finished(run: Run) -> list[Unit]:
    """Finish every unit of the synthesis, with the events of a driver that was content."""
    units = pipeline.stage_units(run, STAGE)
    do(run, len(units))
    run.event(STAGE, event="start", process=1, host=socket.gethostname())
    for unit in units:
        run.event(STAGE, event="unit_start", unit=unit.name)
        run.event(STAGE, event="unit_end", unit=unit.name, seconds=3.0)
    run.event(STAGE, event="complete")
    return units


def remove(run: Run, unit: Unit) -> None:
    run.file(unit.marker).unlink()


def overwrite(run: Run, unit: Unit) -> None:
    run.file(unit.marker).write_bytes(b"garbage")


def lose_a_file(run: Run, unit: Unit) -> None:
    run.file(f"synthesis/{unit.name}.bin").unlink()


def damage_a_file(run: Run, unit: Unit) -> None:
    run.file(f"synthesis/{unit.name}.bin").write_bytes(b"imagE")


def change_what_it_was_made_from(run: Run, unit: Unit) -> None:
    (teacher, *_) = pipeline.stage_units(run, "squeeze")
    path = f"teachers/{len(teacher.name)}.bin"
    fileio.write_bytes(run.file(path), b"other weights")
    run.finish(teacher, paths=[path], record={})


@pytest.mark.parametrize("harm", [remove, overwrite, lose_a_file, damage_a_file])
def test_what_was_lost_after_its_end_is_missing_as_the_plan_has_it(
    run: Run, harm: Callable[[Run, Unit], None]
) -> None:
    units = finished(run)
    assert RunTracker(run).read().status == "complete"
    harm(run, units[1])
    state = RunTracker(run).read()
    assert state.missing == pipeline.plan(run, STAGE).missing == 1
    assert state.status == "begun"
    assert any(f"again: {units[1].name} (damaged:" in note for note in state.notes) == (
        harm is not remove
    )


@pytest.mark.parametrize("harm", [remove, overwrite, change_what_it_was_made_from])
def test_a_follower_sees_markers_that_change_while_nobody_drives(
    run: Run, harm: Callable[[Run, Unit], None]
) -> None:
    units = finished(run)
    follower = RunTracker(run)
    assert follower.read().missing == 0
    harm(run, units[0])
    assert follower.read().missing == pipeline.plan(run, STAGE).missing > 0
    do(run, len(units))
    assert follower.read().status == "complete"


def test_only_markers_that_have_changed_are_read_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = finished(run)
    follower, seen = RunTracker(run), list[str]()
    follower.read()
    inspect = Run.inspect

    def counted(run: Run, unit: Unit, **how: bool) -> UnitState:
        seen.append(unit.name)
        return inspect(run, unit, **how)

    monkeypatch.setattr(Run, "inspect", counted)
    follower.read()
    assert seen == []
    overwrite(run, units[2])
    follower.read()
    assert seen == [units[2].name]


def test_files_of_many_units_are_hashed_a_few_at_a_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = finished(run)
    damage_a_file(run, units[-1])
    monkeypatch.setattr(monitor, "_HASHING", 0.0)
    follower = RunTracker(run)
    states = [follower.read() for _ in units]
    left = [*range(len(units) - 1, 0, -1)]
    assert [state.unhashed for state in states[:-1]] == left
    assert {state.status for state in states[:-1]} == {"checking"}
    assert (states[-1].status, states[-1].missing) == ("begun", 1)


def test_a_unit_that_begins_again_is_not_done_until_it_ends(held: Run) -> None:
    do(held, 2)
    follower, (first, *_) = RunTracker(held), units_of(held)
    assert follower.read().done == 2
    held.event(STAGE, event="unit_start", unit=first)
    assert follower.read().done == 1
    held.event(STAGE, event="unit_end", unit=first, seconds=1.0)
    assert follower.read().done == 2


def test_a_half_written_line_is_read_once_it_is_whole(run: Run) -> None:
    unit = units_of(run)[0]
    begin(run, unit)
    follower = RunTracker(run)
    follower.read()
    event: dict[str, Any] = {"time": time.time(), "event": "step", "unit": unit, "step": 9}
    line = json.dumps({**event, "steps": 20, "losses": {"bn/net": 1.5}}) + "\n"
    with (run.path / "events" / f"{STAGE}.jsonl").open("a") as log:
        log.write(line[:20])
        log.flush()
        assert follower.read().step == 5
        log.write(line[20:])
    state = follower.read()
    assert state.step == 9
    assert state.curve is not None
    assert state.curve.terms == {"bn/net": [(5, 2.0), (9, 1.5)]}


def test_units_of_another_method_are_left_out_and_named(run: Run) -> None:
    begin(run, "gvbsm/images000-000_classes000-009")
    run.event(STAGE, event="unit_end", unit="gvbsm/images000-000_classes000-009", seconds=1.0)
    state = RunTracker(run).read()
    assert state.done == 0
    assert state.curve is None
    assert any("gvbsm/images000-000_classes000-009" in note for note in state.notes)


def test_a_run_of_a_newer_kit_says_so(run: Run) -> None:
    run.update_manifest(environment={"versions": {"prism-nb": "99.0"}})
    assert "made by version 99.0" in version_warning(run)
    config = run.path / "config.yaml"
    config.write_text(config.read_text() + "hologram: true\n")
    with pytest.raises(UsageError, match=r"version 99\.0 .* update the kit .*hologram"):
        Run.open(run.path)


def test_a_run_of_this_kit_with_a_bad_setting_is_not_called_newer(run: Run) -> None:
    run.update_manifest(environment={"versions": {"prism-nb": "0.0.9+local.99"}})
    config = run.path / "config.yaml"
    config.write_text(config.read_text() + "hologram: true\n")
    with pytest.raises(UsageError) as caught:
        open_for_viewing(run.path)
    assert "newer" not in str(caught.value)


def test_what_is_no_run_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        open_for_viewing(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no run has begun"):
        open_for_viewing(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UsageError, match="is a study's folder"):
        open_for_viewing(tmp_path)


def test_the_last_words_of_a_log(run: Run) -> None:
    assert last_log_line(run) == ""
    fileio.write_bytes(log_path(run), b"line\nerror: no disk \xff\n\n")
    assert last_log_line(run).startswith("error: no disk")
