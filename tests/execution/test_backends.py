"""Units one after the other, their files written beside the next."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import LeaseLostError, Owner
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import worker
from prism_nb.execution.backends import run_units


def units_of(count: int) -> list[Unit]:
    return [
        Unit(
            stage="relabel",
            name=f"u{n}",
            marker=f"labels/u{n}/unit.json",
            fingerprint="b",
            params={},
        )
        for n in range(count)
    ]


def carry_out(run: Run, units: list[Unit], work: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    events: list[Any] = []
    monkeypatch.setattr(worker, "import_function", lambda _: work)
    run_units(run, units, "somewhere:work", events.append)
    return [(event["event"], event["unit"]) for event in events]


@pytest.mark.parametrize("fails", [False, True])
def test_a_stage_has_its_threads_and_leaves_the_process_its_own(
    run: Run, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), list[int]()
    asked = Run(run.path, run.settings.model_copy(update={"threads": before + 2}))

    def work(run: Run, unit: Unit, _: Any) -> None:
        seen.append(torch.get_num_threads())
        if fails:
            raise PrismError("of this work")
        run.finish(unit, paths=[], record={})

    with pytest.raises(PrismError) if fails else nullcontext():
        carry_out(asked, units_of(1), work, monkeypatch)
    assert seen == [before + 2]
    assert torch.get_num_threads() == before


def test_a_units_files_are_written_while_the_next_is_begun(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_begun = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            second_begun.set()

        def finish() -> None:
            assert second_begun.wait(10)
            run.finish(unit, paths=[], record={})

        return finish

    events = carry_out(run, units_of(2), work, monkeypatch)
    assert events == [("begin", "u0"), ("begin", "u1"), ("end", "u0"), ("end", "u1")]
    assert all(run.inspect(unit).state == "done" for unit in units_of(2))


def test_what_was_begun_before_a_failure_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            failed.set()
            raise KeyboardInterrupt

        def finish() -> None:
            assert failed.wait(10)
            run.finish(unit, paths=[], record={})

        return finish

    with pytest.raises(KeyboardInterrupt):
        carry_out(run, units_of(2), work, monkeypatch)
    assert [run.inspect(unit).state for unit in units_of(2)] == ["done", "missing"]


def test_a_failure_to_write_ends_the_stage_and_keeps_what_comes_after(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    begun: list[str] = []

    def work(run: Run, unit: Unit, _: Any) -> Any:
        begun.append(unit.name)

        def finish() -> None:
            if unit.name == "u0":
                assert failing.wait(10)
                raise OSError("no space left")
            run.finish(unit, paths=[], record={})

        if unit.name == "u1":  # u0 fails while u1 is at work
            failing.set()
        return finish

    with pytest.raises(OSError, match="no space left"):
        carry_out(run, units_of(3), work, monkeypatch)
    assert begun == ["u0", "u1"]
    assert run.inspect(units_of(2)[1]).state == "done"


def test_a_failure_to_write_is_told_beside_another(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()

    def work(run: Run, unit: Unit, _: Any) -> Any:
        if unit.name == "u1":
            failing.set()
            raise PrismError("u1 diverged")

        def finish() -> None:
            assert failing.wait(10)
            raise OSError("no space left")

        return finish

    with pytest.raises(PrismError, match="u1 diverged") as caught:
        carry_out(run, units_of(2), work, monkeypatch)
    assert "no space left" in caught.value.__notes__[0]


def test_work_that_leaves_no_marker_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrismError, match="u0 left no marker"):
        carry_out(run, units_of(1), lambda *_: None, monkeypatch)


def test_unit_that_another_process_works_on_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_WAIT", 0.01)
    held = run.lease("labels/u0.json", "relabel")
    held.__enter__()
    done_here: list[str] = []

    def work(run: Run, unit: Unit, _: Any) -> None:
        done_here.append(unit.name)
        run.finish(unit, paths=[], record={})
        if unit.name == "u1":  # meanwhile, the other process has finished its own
            run.finish(units_of(1)[0], paths=[], record={})
            held.__exit__(None, None, None)

    events = carry_out(run, units_of(2), work, monkeypatch)
    assert done_here == ["u1"]
    assert [event for event in events if event[1] == "u0"] == [("elsewhere", "u0"), ("kept", "u0")]


def test_unit_whose_worker_elsewhere_died_is_done_here(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_WAIT", 0.01)
    held = run.lease("labels/u0.json", "relabel")
    held.__enter__()

    def work(run: Run, unit: Unit, _: Any) -> None:
        run.finish(unit, paths=[], record={})
        if unit.name == "u1":
            held.__exit__(None, None, None)

    carry_out(run, units_of(2), work, monkeypatch)
    assert [run.inspect(unit).state for unit in units_of(2)] == ["done", "done"]


def test_unit_that_failed_is_free_for_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(run: Run, unit: Unit, _: Any) -> None:
        raise PrismError("no")

    with pytest.raises(PrismError, match="no"):
        carry_out(run, units_of(1), work, monkeypatch)
    with run.lease("labels/u0.json", "relabel") as lease:
        assert lease.is_mine


def test_units_are_begun_once_however_many_drivers_there_are(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, lock, begun = units_of(120), threading.Lock(), []

    def work(run: Run, unit: Unit, _: Any) -> None:
        with lock:
            begun.append(unit.name)
        run.finish(unit, paths=[], record={})

    monkeypatch.setattr(worker, "import_function", lambda _: work)
    monkeypatch.setattr(worker, "_WAIT", 0.001)

    def drive() -> None:
        worker.run_units_sequentially(
            Run(run.path, run.settings), units, "somewhere:work", lambda _: None
        )

    drivers = [threading.Thread(target=drive) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(begun) == sorted(unit.name for unit in units)


def test_unit_that_was_taken_over_ends_the_stage_and_writes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def work(run: Run, unit: Unit, _: Any) -> Any:
        other = replace(Owner.here(), host="far", token="other")
        fileio.write_json(run.file("locks/labels/u0.json"), asdict(other))
        return lambda: written.append(unit.name)

    with pytest.raises(LeaseLostError, match="taken over by process .* on far"):
        carry_out(run, units_of(1), work, monkeypatch)
    assert not written
