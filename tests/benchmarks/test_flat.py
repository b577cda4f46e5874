"""Hundreds of units leave no threads, open files or leases behind."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import worker
from prism_nb.execution.backends import run_units

FEW = 20  # of 300; libraries open and close some of their own at any time


def test_hundreds_of_units_leave_nothing_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [
        Unit(stage="relabel", name=f"u{n}", marker=f"labels/u{n}/unit.json", fingerprint="b")
        for n in range(300)
    ]

    def work(run: Run, unit: Unit, _: Any) -> Any:
        path = f"labels/{unit.name}/file"
        fileio.write_bytes(run.file(path), b"x")
        return lambda: run.units.finish(unit, paths=[path], record={})

    monkeypatch.setattr(worker, "import_function", lambda _: work)
    run_units(run, units[:20], "somewhere:work", lambda _: None)
    me = psutil.Process()
    fds, threads = me.num_fds(), me.num_threads()
    run_units(run, units, "somewhere:work", lambda _: None)
    assert me.num_fds() - fds < FEW
    assert me.num_threads() - threads < FEW
    assert not list(run.path.glob("locks/labels/*.json"))
    assert all(run.units.is_done(unit) for unit in units)
