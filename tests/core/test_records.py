"""Logs and manifests: what is of another type than the kit writes is left out, the rest stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_nb.core.events import is_valid_event, valid_stage_record

STEP = {"event": "step", "time": 1.5, "unit": "a", "step": 0, "steps": 9, "losses": {"bn": 0.1}}
ODD = [None, True, "noon", "", [], {}, -1, 1.5, 10**400, 1e300, float("nan"), float("inf")]


def test_what_the_kit_writes_is_whole() -> None:
    written: list[dict[str, Any]] = [
        {"event": "start", "time": 1, "process": 7, "host": "h"},
        {"event": "unit_start", "time": 1.5, "unit": "a"},
        STEP,
        {"event": "unit_end", "time": 2, "unit": "a", "seconds": 0.5},
        {"event": "of a newer kit", "unit": "a", "colour": []},
    ]
    assert all(map(is_valid_event, written))


@pytest.mark.parametrize("name", ["event", "unit", "step", "steps"])
def test_step_without_what_it_needs_is_not_whole(name: str) -> None:
    assert not is_valid_event({key: value for key, value in STEP.items() if key != name})


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("event", {"noon", ""}),
        ("unit", {"noon", ""}),
        ("time", {1.5}),
        ("step", set()),
        ("steps", set()),
        ("losses", set()),
        ("seconds", {1.5, 1e300}),
    ],
)
def test_value_of_another_type_is_not_whole(name: str, allowed: set[Any]) -> None:
    for value in ODD:
        whole = is_valid_event({**STEP, name: value})
        fine = type(value) in {str, float, int} and value in allowed
        assert whole == (fine or (name == "losses" and value == {})), value
    assert not is_valid_event({**STEP, "losses": {"bn": "low"}})


def test_stage_keeps_what_is_whole() -> None:
    record = {"units_made": 3, "seconds": "long", "peak_memory_bytes": "a", "of a newer kit": []}
    assert valid_stage_record(record) == {"units_made": 3, "of a newer kit": []}
    for value in (None, [], "a", 3):
        assert valid_stage_record(value) == {}


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*STEP, "seconds", "peak_memory_bytes"]), _ANY))
def test_whole_values_can_be_reckoned_with(values: dict[str, Any]) -> None:
    kept = valid_stage_record(values)
    assert kept.get("peak_memory_bytes", 0) >= 0
    assert kept.get("step", 0) / kept.get("steps", 1) >= 0
    assert sum(kept.get("losses", {}).values()) <= float("inf")
    assert is_valid_event(values) in {True, False}
