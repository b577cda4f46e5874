"""What events add up to, and what time is left: written logs against sums made by hand."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_nb.execution.cost import UnitCost, images_per_minute, monitor_seconds_left
from prism_nb.viz.monitor import MOST, Curves, EventLog

A, B = "prism/a", "prism/b"


def log_of(*events: dict[str, Any]) -> EventLog:
    """Take events, one second apart."""
    log = EventLog()
    for second, event in enumerate(events):
        log.take({"time": 100.0 + second, **event})
    return log


def step(unit: str, at: int, **losses: float) -> dict[str, Any]:
    return {"event": "step", "unit": unit, "step": at, "steps": 10, "losses": losses}


START = {"event": "start", "process": 7, "host": "far"}


def test_a_unit_begins_reports_and_ends() -> None:
    events = (START, {"event": "unit_start", "unit": A}, step(A, 1, bn=4.0), step(A, 5, bn=2.0))
    log = log_of(*events)
    assert log.at_work[A].share == 0.5
    assert (log.at_work[A].begun, log.at_work[A].told) == (101.0, 103.0)
    assert log.curves.by_unit == {A: {"bn": [(1, 4.0), (5, 2.0)]}}
    assert (log.host, log.started, log.working, log.last) == ("far", 100.0, 101.0, 103.0)
    log = log_of(*events, {"event": "unit_end", "unit": A, "seconds": 2.5})
    assert not log.at_work
    assert log.made == {A: 2.5}
    assert log.said == {A: True}


def test_what_was_said_of_a_unit_is_given_once() -> None:
    log = log_of(START, {"event": "unit_skipped", "unit": A}, {"event": "unit_start", "unit": B})
    assert log.pop_said() == {A: True, B: False}
    assert log.pop_said() == {}
    log.take({"time": 200.0, "event": "unit_end", "unit": B, "seconds": 1.0})
    assert log.pop_said() == {B: True}


def test_the_next_unit_begins_while_the_last_is_written() -> None:
    log = log_of(
        START, {"event": "unit_start", "unit": A}, {"event": "unit_start", "unit": B}, step(B, 2)
    )
    assert list(log.at_work) == [A, B]
    log.take({"time": 200.0, "event": "unit_end", "unit": A, "seconds": 1.0})
    assert list(log.at_work) == [B]


def test_a_unit_that_begins_again_has_a_new_curve() -> None:
    again = {"event": "unit_start", "unit": A}
    log = log_of(
        START, again, step(A, 1, bn=4.0), step(A, 2, bn=3.0), START, again, step(A, 1, bn=9)
    )
    assert log.curves.by_unit == {A: {"bn": [(1, 9.0)]}}
    assert log.at_work[A].step == 1


def test_units_that_report_in_turn_have_a_whole_curve_each() -> None:
    begun = ({"event": "unit_start", "unit": unit} for unit in (A, B))
    turns = (step(unit, at, bn=10.0 - at) for at in (1, 2, 3) for unit in (A, B))
    log = log_of(START, *begun, *turns)
    whole = {"bn": [(1, 9.0), (2, 8.0), (3, 7.0)]}
    assert log.curves.by_unit == {A: whole, B: whole}


def test_workers_that_outlive_their_driver_go_on_with_their_curve() -> None:
    log = log_of(
        START, {"event": "unit_start", "unit": A}, step(A, 1, bn=4.0), START, step(A, 2, bn=3)
    )
    assert log.curves.by_unit == {A: {"bn": [(1, 4.0), (2, 3.0)]}}


def test_a_unit_that_goes_on_elsewhere_at_a_later_step_has_a_new_curve() -> None:
    begin = {"event": "unit_start", "unit": A}
    log = log_of(START, begin, step(A, 2, bn=4.0), begin, step(A, 6, bn=1.0))
    assert log.curves.by_unit == {A: {"bn": [(6, 1.0)]}}


def test_losses_of_a_bounded_number_of_units_are_kept_and_those_at_work_longest() -> None:
    curves, names = Curves(), [f"u{place}" for place in range(MOST + 2)]
    for name in names[:MOST]:
        curves.add(name, 1, {"bn": 1.0}, names)
    curves.add(names[MOST], 1, {"bn": 1.0}, names)
    assert list(curves.by_unit) == names[:MOST]  # all are at work
    curves.add(names[0], 2, {"bn": 1.0}, names)
    at_work = {*names} - {names[0], names[5]}
    curves.add(names[MOST], 2, {"bn": 1.0}, at_work)
    assert names[5] not in curves.by_unit
    assert len(curves.by_unit) == MOST
    assert curves.by_unit[names[0]] == {"bn": [(1, 1.0), (2, 1.0)]}
    assert list(curves.by_unit)[-1] == names[MOST]


def test_a_new_driver_starts_counting_anew_and_forgets_what_the_dead_one_had_begun() -> None:
    done = {"event": "unit_end", "unit": A, "seconds": 1.0}
    log = log_of(
        START, {"event": "unit_start", "unit": A}, done, {"event": "unit_start", "unit": B}, START
    )
    assert not log.at_work
    assert not log.made
    assert log.said == {A: True, B: False}


@pytest.mark.parametrize("kind", ["stopped", "failed", "complete"])
def test_how_it_ended(kind: str) -> None:
    log = log_of(START, {"event": "unit_start", "unit": A}, {"event": kind, "reason": "no disk"})
    assert (log.closing, log.reason) == (kind, "no disk")
    assert not log.at_work
    log.take({"time": 200.0, **START})
    assert (log.closing, log.reason) == ("", "")


@pytest.mark.parametrize(
    "event",
    [
        {"event": "step", "unit": A, "step": 1, "steps": 10, "losses": {"bn": "low"}},
        {"event": "step", "unit": A, "step": None, "steps": 10, "losses": {}},
        {"event": "step", "unit": A, "step": 1, "steps": 10, "losses": [1.0]},
        {"event": "unit_start"},
        {"event": "unit_start", "unit": ["a"]},
        {"event": "unit_end", "unit": A},
    ],
)
def test_an_event_of_another_shape_is_left_out_and_counted(event: dict[str, Any]) -> None:
    log = log_of(START, event)
    assert log.unread == 1
    assert not log.curves.by_unit
    assert not log.said


def test_kinds_of_a_newer_kit_tell_nothing() -> None:
    log = log_of(START, {"event": "teleported", "unit": 3})
    assert log.unread == 0
    assert log.last == 101.0


_scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from("ab")
_values = _scalars | st.lists(_scalars, max_size=2) | st.fixed_dictionaries({"bn": _scalars})
_keys = st.sampled_from(["event", "time", "unit", "step", "steps", "losses", "seconds", "host"])
_kinds = st.sampled_from(["start", "begin", "step", "end", "kept", "failed"])


@given(st.lists(st.dictionaries(_keys, _values | _kinds), max_size=8))
def test_no_log_whatever_it_holds_stops_the_monitor(events: list[dict[str, Any]]) -> None:
    log = EventLog()
    for event in events:
        log.take(json.loads(json.dumps(event)))
    assert 0 <= log.unread <= len(events)
    assert all(0 <= work.share <= 1 for work in log.at_work.values())


COSTS = {
    "a": UnitCost("prism", 100.0, 10),
    "b": UnitCost("prism", 300.0, 30),
    "c": UnitCost("sre2l", 50.0, 5),
}


def test_nothing_is_foreseen_before_anything_was_taken() -> None:
    assert monitor_seconds_left(COSTS, (), {}) is None
    assert monitor_seconds_left(COSTS, COSTS, {}) == 0.0


def test_a_method_is_scaled_by_its_own_units() -> None:
    # prism: 100 took 10 s, so 300 take 30 s; sre2l: half of its 50 took 20 s, so 20 s are left
    taken = {"a": (1.0, 10.0), "c": (0.5, 20.0)}
    assert monitor_seconds_left(COSTS, ["a"], taken) == pytest.approx(30.0 + 20.0)


def test_a_method_without_a_unit_goes_by_all_of_them() -> None:
    assert monitor_seconds_left(COSTS, ["a"], {"a": (1.0, 10.0)}) == pytest.approx(30.0 + 5.0)


@given(st.floats(0.01, 0.99), st.floats(0.1, 1e4))
def test_a_unit_at_work_is_left_by_what_it_lacks(share: float, spent: float) -> None:
    costs = {"a": UnitCost("prism", 70.0, 7)}
    left = monitor_seconds_left(costs, (), {"a": (share, spent)})
    assert left == pytest.approx(spent / share - spent)


def test_throughput_counts_whole_units_and_shares() -> None:
    assert images_per_minute(COSTS, ["a"], {"b": 0.5}, 30.0) == pytest.approx(60 * 25 / 30)
    assert images_per_minute(COSTS, [], {}, 30.0) is None
    assert images_per_minute(COSTS, ["a"], {}, 0.0) is None
