"""Units one after another with background writes, workers' tasks and their versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import LeaseLostError, Owner
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import worker
from prism_nb.execution.backends import run_units
from prism_nb.execution.worker import WorkerTask, run_task
from tests.helpers.slurm_work import units_of

Execute = Callable[[int, Callable[..., Any]], list[tuple[str, str]]]


@pytest.fixture
def execute(run: Run) -> Execute:
    """Do a number of units with a function; returns kind and unit of every event."""

    def call(units: int, work: Callable[..., Any]) -> list[tuple[str, str]]:
        events: list[dict[str, Any]] = []
        run_units(run, units_of(units), work, events.append)
        return [(event["event"], event["unit"]) for event in events]

    return call


def finish(run: Run, unit: Unit) -> None:
    run.units.finish(unit, paths=[], record={})


def states(run: Run, units: int) -> list[str]:
    return [run.units.state(unit).state for unit in units_of(units)]


def test_files_are_written_while_the_next_unit_runs(run: Run, execute: Execute) -> None:
    second_begun = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            second_begun.set()

        def write() -> None:
            assert second_begun.wait(10)
            finish(run, unit)

        return write

    starts = [("unit_start", "u0"), ("unit_start", "u1")]
    assert execute(2, work) == [*starts, ("unit_end", "u0"), ("unit_end", "u1")]
    assert states(run, 2) == ["done", "done"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, PrismError])
def test_a_failure_lets_the_unit_before_be_written(
    run: Run, execute: Execute, error: type[BaseException]
) -> None:
    failed = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            failed.set()
            raise error("no")

        def write() -> None:
            assert failed.wait(10)
            finish(run, unit)

        return write

    with pytest.raises(error):
        execute(2, work)
    assert states(run, 2) == ["done", "missing"]
    with run.locks.lease("relabel/u1.json", "relabel") as lease:
        assert lease.is_mine


def test_a_failed_write_ends_the_stage(run: Run, execute: Execute) -> None:
    failing, begun = threading.Event(), list[str]()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        begun.append(unit.name)

        def write() -> None:
            if unit.name == "u0":
                assert failing.wait(10)
                raise OSError("no space left")
            finish(run, unit)

        if unit.name == "u1":  # u0's write fails while u1 is computed
            failing.set()
        return write

    with pytest.raises(OSError, match="no space left"):
        execute(3, work)
    assert begun == ["u0", "u1"]
    assert states(run, 2) == ["missing", "done"]


def test_work_without_a_marker_is_an_error(execute: Execute) -> None:
    with pytest.raises(PrismError, match="u0 left no marker"):
        execute(1, lambda *_: None)


@pytest.mark.parametrize("other_finishes", [True, False], ids=["finishes", "dies"])
def test_a_unit_of_another_process_is_waited_for(
    run: Run, execute: Execute, other_finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.01)
    held, done_here = run.locks.lease("relabel/u0.json", "relabel"), list[str]()
    held.__enter__()

    def work(run: Run, unit: Unit, _: Any) -> None:
        done_here.append(unit.name)
        finish(run, unit)
        if unit.name == "u1":  # meanwhile, the other process ends
            if other_finishes:
                finish(run, units_of(1)[0])
            held.__exit__(None, None, None)

    events = execute(2, work)
    assert done_here == (["u1"] if other_finishes else ["u1", "u0"])
    assert next(kind for kind, unit in events if unit == "u0") == "unit_held"
    assert states(run, 2) == ["done", "done"]


def test_four_drivers_do_each_unit_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    units, begun = units_of(120), list[str]()

    def work(run: Run, unit: Unit, _: Any) -> None:
        begun.append(unit.name)
        finish(run, unit)

    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.001)

    def drive() -> None:
        own = Run(run.path, run.settings)
        worker.run_units_sequentially(own, units, work, lambda _: None)

    drivers = [threading.Thread(target=drive) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(begun) == sorted(unit.name for unit in units)


def test_a_unit_taken_over_writes_nothing(execute: Execute) -> None:
    written = []

    def work(run: Run, unit: Unit, _: Any) -> Any:
        other = replace(Owner.current(), host="far", token="other")
        fileio.write_json(run.file("locks/relabel/u0.json"), asdict(other))
        return lambda: written.append(unit.name)

    with pytest.raises(LeaseLostError, match="taken over by process .* on far"):
        execute(1, work)
    assert not written


def test_a_task_of_other_versions_starts_no_unit_and_names_them(run: Run) -> None:
    task = WorkerTask.of(run, units_of(1), finish)
    other = "prism-nb 0.1 (source 0123)"
    result = run_task(replace(task, settings={"no": "setting"}, versions=other))
    assert result.made == 0
    assert f"has {task.versions}, but the run's driver {other}. Install" in result.error
    assert not list(run.events.read("relabel"))
