"""Markers: the states of units, and what a lost lease or a silent disk does to them."""

from __future__ import annotations

import errno
import os
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

_NO_MARKER = "teachers/units/net.json is no marker, or has been changed"


_UNIT = Unit("squeeze", "net", "teachers/units/net.json", "fingerprint")


_WEIGHTS = "teachers/net.bin"


_USER = Unit(
    "diversity", "prism", "diversity/prism.json", "other fingerprint", inputs=(_UNIT.marker,)
)


def finish(run: Run, content: str = "weights") -> UnitState:
    """Finish the unit with one file, and return its state."""
    fileio.write_text(run.path / _WEIGHTS, content)
    run.units.finish(_UNIT, paths=[_WEIGHTS], record={"seconds": 1.5})
    return run.units.state(_UNIT)


def test_a_finished_unit_is_done(run: Run) -> None:
    assert finish(run) == UnitState(_UNIT, "done")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '"done"'])
def test_no_marker_is_damaged(run: Run, content: str) -> None:
    finish(run)
    (run.path / _UNIT.marker).write_text(content, encoding="utf-8")
    found = run.units.state(_UNIT)
    assert (found.state, found.reason) == ("damaged", _NO_MARKER)


def test_a_changed_record_is_damaged(run: Run) -> None:
    finish(run)
    path = run.file(_UNIT.marker)
    marker = fileio.read_json(path)
    marker["record"] = {"last": 0.999}
    fileio.write_json(path, marker)
    assert run.units.state(_UNIT).state == "damaged"
    assert run.units.marker(_UNIT) is None


def test_equal_inputs_keep_a_unit_done(run: Run) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    finish(run)
    assert run.units.is_done(_USER)


def test_changed_inputs_make_a_unit_stale(run: Run) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    finish(run, "other weights")
    found = run.units.state(_USER)
    assert (found.state, found.reason) == ("stale", "prism was made from files that have changed")


def test_a_lost_lease_stops_the_first_owner(run: Run) -> None:
    unit = Unit("relabel", "u", "labels/u/unit.json", "b", {})
    with run.units.hold(unit):
        lease = run.path / "locks" / "relabel" / "u.json"
        other = replace(Owner.current(), host="far", token="other")
        fileio.write_json(lease, asdict(other))
        with pytest.raises(LeaseLostError, match="u was taken over by process .* on far"):
            run.units.finish(unit, paths=[], record={})
    assert run.units.state(unit).state == "missing"
    assert Owner.read(lease) == other


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EACCES])
def test_a_disk_that_does_not_answer_is_no_damage(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unit = Unit("relabel", "u", "labels/u/unit.json", "b", {})
    fileio.write_text(run.file("labels/u/x.txt"), "x")
    run.units.finish(unit, paths=["labels/u/x.txt"], record={})
    run.manifest.update(kept="this")
    opened = Path.open

    def away(name: str) -> None:
        def open_(path: Path, *args: Any, **named: Any) -> Any:
            if path.name == name:
                raise OSError(number, os.strerror(number))
            return opened(path, *args, **named)

        monkeypatch.setattr(Path, "open", open_)

    for name in ("unit.json", "x.txt"):
        away(name)
        with pytest.raises(PrismError, match=f"cannot read .*{name}: {os.strerror(number)}"):
            run.units.state(unit)
    away("manifest.json")
    with pytest.raises(PrismError, match="cannot read"):
        run.manifest.update(more="that")
    monkeypatch.undo()
    assert run.units.is_done(unit)
    assert run.manifest.read()["kept"] == "this"


def test_an_unfinished_unit_is_missing_and_has_no_record(run: Run) -> None:
    fileio.write_text(run.path / _WEIGHTS, "weights")
    assert run.units.state(_UNIT).state == "missing"
    with pytest.raises(PrismError, match="squeeze unit net is not done; run that stage first"):
        run.units.record(_UNIT)
    assert run.units.files(_UNIT) == []


def test_a_finished_unit_has_its_record_and_files(run: Run) -> None:
    finish(run)
    assert run.units.record(_UNIT) == {"seconds": 1.5}
    assert run.units.files(_UNIT) == [_WEIGHTS]


def test_changed_files_are_found_by_their_hashes(run: Run) -> None:
    finish(run)
    (run.path / _WEIGHTS).write_text("weighty")
    assert run.units.state(_UNIT).reason == "teachers/net.bin has changed since it was written"
    assert run.units.is_done(_UNIT, verify_hashes=False)
    (run.path / _WEIGHTS).unlink()
    for verify in (True, False):
        state = run.units.state(_UNIT, verify_hashes=verify)
        assert (state.state, state.reason) == ("damaged", "teachers/net.bin is gone")


def test_a_file_that_was_never_written_is_damage(run: Run) -> None:
    run.units.finish(_UNIT, paths=[_WEIGHTS], record={})
    assert run.units.state(_UNIT).state == "damaged"


def test_a_unit_of_another_fingerprint_is_of_other_settings(run: Run) -> None:
    finish(run)
    other = replace(_UNIT, fingerprint="changed")
    assert run.units.state(other).state == "other settings"
    assert run.units.marker(other) is None


def test_a_missing_input_makes_a_unit_stale(run: Run) -> None:
    finish(run)
    run.units.finish(_USER, paths=[], record={})
    (run.path / _UNIT.marker).unlink()
    assert run.units.state(_USER).state == "stale"


def test_inputs_are_compared_by_their_files_alone(run: Run) -> None:
    finish(run)
    before = run.units.inputs_hash((_UNIT.marker,))
    run.units.finish(_UNIT, paths=[_WEIGHTS], record={"seconds": 99})
    assert run.units.inputs_hash((_UNIT.marker,)) == before
