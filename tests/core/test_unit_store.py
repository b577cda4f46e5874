"""Markers: the states of units, and what a lost lease or a silent disk does to them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import LeaseLostError, Owner
from prism_nb.core.run import Run
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import Unit

_WEIGHTS = "teachers/net.bin"
_UNIT = Unit("squeeze", "net", "teachers/units/net.json", "fingerprint")
_USER = Unit("diversity", "prism", "diversity/prism.json", "another", inputs=(_UNIT.marker,))


def finish(run: Run, content: str = "weights", seconds: float = 1.5) -> None:
    """Finish the unit with one file."""
    fileio.write_text(run.path / _WEIGHTS, content)
    run.units.finish(_UNIT, paths=[_WEIGHTS], record={"seconds": seconds})


def test_a_finished_unit_is_done_with_its_record_and_files(run: Run) -> None:
    finish(run)
    assert run.units.state(_UNIT) == UnitState(_UNIT, "done")
    assert run.units.record(_UNIT) == {"seconds": 1.5}
    assert run.units.files(_UNIT) == [_WEIGHTS]


def test_an_unfinished_unit_is_missing_and_has_no_record(run: Run) -> None:
    fileio.write_text(run.path / _WEIGHTS, "weights")
    assert run.units.state(_UNIT).state == "missing"
    with pytest.raises(PrismError, match="squeeze unit net is not done; run that stage first"):
        run.units.record(_UNIT)
    assert run.units.files(_UNIT) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '"done"', "changed"])
def test_no_marker_or_a_changed_one_is_damaged(run: Run, content: str) -> None:
    finish(run)
    path = run.path / _UNIT.marker
    path.write_text(path.read_text().replace("1.5", "0.5") if content == "changed" else content)
    found = run.units.state(_UNIT)
    assert found.state == "damaged"
    assert found.reason == "teachers/units/net.json is no marker, or has been changed"
    assert run.units.marker(_UNIT) is None


def test_changed_files_are_found_by_their_hashes(run: Run) -> None:
    finish(run)
    (run.path / _WEIGHTS).write_text("weighty")
    assert run.units.state(_UNIT).reason == "teachers/net.bin has changed since it was written"
    assert run.units.is_done(_UNIT, verify_hashes=False)
    (run.path / _WEIGHTS).unlink()
    for verify in (True, False):
        state = run.units.state(_UNIT, verify_hashes=verify)
        assert (state.state, state.reason) == ("damaged", "teachers/net.bin is gone")


def test_a_unit_of_another_fingerprint_is_of_other_settings(run: Run) -> None:
    finish(run)
    other = replace(_UNIT, fingerprint="changed")
    assert run.units.state(other).state == "other settings"
    assert run.units.marker(other) is None


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (finish, "done"),
        (lambda run: finish(run, seconds=99.0), "done"),  # its files are the same
        (lambda run: finish(run, "other weights"), "stale"),
        (lambda run: (run.path / _UNIT.marker).unlink(), "stale"),
    ],
)
def test_changed_inputs_make_a_unit_stale(
    run: Run, change: Callable[[Run], object], state: str
) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    change(run)
    reason = "prism was made from files that have changed" if state == "stale" else ""
    assert run.units.state(_USER) == UnitState(_USER, state, reason)


def test_a_lost_lease_stops_the_first_owner(run: Run) -> None:
    with run.units.hold(_UNIT):
        lease = run.path / "locks" / "squeeze" / "net.json"
        other = replace(Owner.current(), host="far", token="other")
        fileio.write_json(lease, asdict(other))
        with pytest.raises(LeaseLostError, match="net was taken over by process .* on far"):
            run.units.finish(_UNIT, paths=[], record={})
    assert run.units.state(_UNIT).state == "missing"
    assert Owner.read(lease) == other


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EACCES])
def test_a_disk_that_does_not_answer_is_no_damage(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    finish(run)
    run.manifest.update(kept="this")
    opened = Path.open

    def away(name: str) -> None:
        def open_(path: Path, *args: Any, **named: Any) -> Any:
            if path.name == name:
                raise OSError(number, os.strerror(number))
            return opened(path, *args, **named)

        monkeypatch.setattr(Path, "open", open_)

    for name in ("net.json", "net.bin"):
        away(name)
        with pytest.raises(PrismError, match=f"cannot read .*{name}: {os.strerror(number)}"):
            run.units.state(_UNIT)
    away("manifest.json")
    with pytest.raises(PrismError, match="cannot read"):
        run.manifest.update(more="that")
    monkeypatch.undo()
    assert run.units.is_done(_UNIT)
    assert run.manifest.read()["kept"] == "this"
