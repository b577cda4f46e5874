"""Event logs: order, damage, and reading on from a position."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_nb.core.events import EventLog


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A log with one event of the stage `relabel`."""
    found = EventLog(tmp_path)
    found.append("relabel", event="unit_start", unit="u")
    return found


def kinds(log: EventLog) -> list[str]:
    return [event["event"] for event in log.read("relabel")]


def test_events_come_back_in_order_by_stage(log: EventLog) -> None:
    log.append("relabel", event="unit_end")
    log.append("squeeze", event="start")
    assert kinds(log) == ["unit_start", "unit_end"]
    assert log.read("synthesis") == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "e',
        b"\xff\xfe",
        b'{"event": ' + b"[" * 100_000,
        b"[]",
        b"{}",
    ],
)
def test_damaged_lines_are_left_out(log: EventLog, tmp_path: Path, line: bytes) -> None:
    with (tmp_path / "relabel.jsonl").open("ab") as file:
        file.write(line)
    assert kinds(log) == ["unit_start"]
    log.append("relabel", event="jobs_resumed")  # on a line of its own
    assert kinds(log) == ["unit_start", "jobs_resumed"]


def test_other_kinds_and_values_are_kept(log: EventLog) -> None:
    log.append("relabel", event="of a newer kit", colour=[1], step=3)
    assert log.read("relabel")[-1].items() >= {"colour": [1], "step": 3}.items()


def test_reading_goes_on_from_a_position(log: EventLog, tmp_path: Path) -> None:
    first, position = log.read_after("relabel", 0)
    assert len(first) == 1
    path = tmp_path / "relabel.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "st')
    assert log.read_after("relabel", position) == ([], position)
    path.write_bytes(path.read_bytes() + b'art"}\n')
    assert log.read_after("relabel", position)[0] == [{"event": "start"}]
