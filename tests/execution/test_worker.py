"""Units one after another with background writes, workers' tasks and their versions."""

from __future__ import annotations

import threading
from dataclasses import asdict, replace
from pathlib import Path
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


def carry_out(run: Run, units: list[Unit], work: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    events: list[Any] = []
    monkeypatch.setattr(worker, "import_function", lambda _: work)
    run_units(run, units, "somewhere:work", events.append)
    return [(event["event"], event["unit"]) for event in events]


def test_files_are_written_while_the_next_unit_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_begun = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            second_begun.set()

        def write() -> None:
            assert second_begun.wait(10)
            run.units.finish(unit, paths=[], record={})

        return write

    events = carry_out(run, units_of(2), work, monkeypatch)
    starts = [("unit_start", "u0"), ("unit_start", "u1")]
    assert events == [*starts, ("unit_end", "u0"), ("unit_end", "u1")]
    assert all(run.units.is_done(unit) for unit in units_of(2))


def test_an_interruption_lets_the_unit_before_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            interrupted.set()
            raise KeyboardInterrupt

        def write() -> None:
            assert interrupted.wait(10)
            run.units.finish(unit, paths=[], record={})

        return write

    with pytest.raises(KeyboardInterrupt):
        carry_out(run, units_of(2), work, monkeypatch)
    assert [run.units.state(unit).state for unit in units_of(2)] == ["done", "missing"]


def test_a_failed_write_ends_the_stage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing, begun = threading.Event(), list[str]()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        begun.append(unit.name)

        def write() -> None:
            if unit.name == "u0":
                assert failing.wait(10)
                raise OSError("no space left")
            run.units.finish(unit, paths=[], record={})

        if unit.name == "u1":  # u0's write fails while u1 is computed
            failing.set()
        return write

    with pytest.raises(OSError, match="no space left"):
        carry_out(run, units_of(3), work, monkeypatch)
    assert begun == ["u0", "u1"]
    assert run.units.state(units_of(2)[1]).state == "done"


def test_a_failed_write_is_a_note_of_another_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            failing.set()
            raise PrismError("u1 diverged")

        def write() -> None:
            assert failing.wait(10)
            raise OSError("no space left")

        return write

    with pytest.raises(PrismError, match="u1 diverged") as caught:
        carry_out(run, units_of(2), work, monkeypatch)
    assert "no space left" in caught.value.__notes__[0]


def test_work_without_a_marker_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrismError, match="u0 left no marker"):
        carry_out(run, units_of(1), lambda *_: None, monkeypatch)


@pytest.mark.parametrize("other_finishes", [True, False], ids=["finishes", "dies"])
def test_a_unit_of_another_process_is_waited_for(
    run: Run, other_finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.01)
    held = run.locks.lease("relabel/u0.json", "relabel")
    held.__enter__()
    done_here: list[str] = []

    def work(run: Run, unit: Unit, _: Any) -> None:
        done_here.append(unit.name)
        run.units.finish(unit, paths=[], record={})
        if unit.name == "u1":  # meanwhile, the other process ends
            if other_finishes:
                run.units.finish(units_of(1)[0], paths=[], record={})
            held.__exit__(None, None, None)

    events = carry_out(run, units_of(2), work, monkeypatch)
    assert done_here == (["u1"] if other_finishes else ["u1", "u0"])
    assert next(kind for kind, unit in events if unit == "u0") == "unit_held"
    assert [run.units.state(unit).state for unit in units_of(2)] == ["done", "done"]


def test_the_lease_of_a_failed_unit_is_released(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(run: Run, unit: Unit, _: Any) -> None:
        raise PrismError("no")

    with pytest.raises(PrismError, match="no"):
        carry_out(run, units_of(1), work, monkeypatch)
    with run.locks.lease("relabel/u0.json", "relabel") as lease:
        assert lease.is_mine


def test_four_drivers_do_each_unit_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    units, lock, begun = units_of(120), threading.Lock(), list[str]()

    def work(run: Run, unit: Unit, _: Any) -> None:
        with lock:
            begun.append(unit.name)
        run.units.finish(unit, paths=[], record={})

    monkeypatch.setattr(worker, "import_function", lambda _: work)
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.001)

    def drive() -> None:
        own = Run(run.path, run.settings)
        worker.run_units_sequentially(own, units, "somewhere:work", lambda _: None)

    drivers = [threading.Thread(target=drive) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(begun) == sorted(unit.name for unit in units)


def test_a_unit_taken_over_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def work(run: Run, unit: Unit, _: Any) -> Any:
        other = replace(Owner.current(), host="far", token="other")
        fileio.write_json(run.file("locks/relabel/u0.json"), asdict(other))
        return lambda: written.append(unit.name)

    with pytest.raises(LeaseLostError, match="taken over by process .* on far"):
        carry_out(run, units_of(1), work, monkeypatch)
    assert not written


def test_differing_versions_are_named_with_the_remedy() -> None:
    mine = worker.worker_versions()
    worker.check_same_versions(mine, where="a worker")
    driver = {**mine, "torch": "1.0", "python": "2.7"}
    del driver["timm"]  # as an older kit's
    with pytest.raises(PrismError) as caught:
        worker.check_same_versions(driver, where="a worker on node7")
    message = str(caught.value)
    assert message.startswith("a worker on node7 has other versions than the run's driver: ")
    assert f"torch {mine['torch']} there, 1.0 with the driver" in message
    assert f"timm {mine['timm']} there, none with the driver" in message
    assert "torchvision" not in message
    assert "install the same ones on every machine" in message


def test_the_source_decides_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_PACKAGE", tmp_path)

    def digest(**contents: str) -> str:
        for name, content in contents.items():
            (tmp_path / name.replace("_", ".")).write_text(content)
        return worker._source_hash.__wrapped__()

    first = digest(a_py="1\n", b_py="2\n")
    assert digest(c_yaml="3\n", b_pyc="4") == first
    assert digest(a_py="1\n2\n", b_py="") != first
    assert digest(a_py="1\n", b_py="2\n") == first


def test_a_task_of_another_version_starts_no_unit(run: Run) -> None:
    task = WorkerTask.of(run, units_of(1), "json:none")
    other = replace(task, settings={"no": "setting"}, versions={**task.versions, "torch": "9"})
    result = run_task(other)
    assert result.made == 0
    assert "9 with the driver" in result.error
    assert not list(run.events.read("relabel"))
