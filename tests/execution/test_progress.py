"""Progress: what a bar shows of a stage's events."""

import io
import time

import pytest

from prism_nb.core.run import Run
from prism_nb.execution.progress import EventProgressBar, StageProgress


def test_units_and_steps_add_up() -> None:
    seen: list[tuple[float, str]] = []
    progress = StageProgress(4, lambda share, unit: seen.append((share, unit)))
    for event in (
        {"event": "unit_skipped", "unit": "a"},
        {"event": "unit_start", "unit": "b"},
        {"event": "step", "unit": "b", "step": 5, "steps": 10},
        {"event": "unit_end", "unit": "b"},
        {"event": "step", "unit": "c", "step": 10, "steps": 10},
    ):
        progress(event)
    assert seen == [(0.25, ""), (0.375, "b"), (0.5, ""), (0.75, "c")]


def test_more_events_than_units_never_pass_the_end() -> None:
    seen: list[float] = []
    progress = StageProgress(1, lambda share, unit: seen.append(share))
    for _ in range(3):
        progress({"event": "unit_end"})
    assert seen == [1.0, 1.0, 1.0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_new_events_only(run: Run) -> None:
    run.event("squeeze", event="unit_end", unit="before")
    terminal = Terminal()
    with EventProgressBar(run, "squeeze", 2, stream=terminal):
        run.event("squeeze", event="step", unit="net", step=1, steps=2)
        deadline = time.monotonic() + 20
        while "net" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "25%" in terminal.getvalue()
    assert "75%" not in terminal.getvalue()


def test_a_log_file_gets_no_bar(run: Run) -> None:
    log = io.StringIO()
    with EventProgressBar(run, "squeeze", 2, stream=log):
        run.event("squeeze", event="unit_end", unit="net")
    assert log.getvalue() == ""


def test_what_is_waited_for_stands_beside_the_bar() -> None:
    seen: list[tuple[float, str]] = []
    progress = StageProgress(2, lambda share, unit: seen.append((share, unit)))
    progress({"event": "unit_end", "unit": "a"})
    progress({"event": "waiting", "why": "1 CPU asked"})
    assert seen[-1] == (0.5, "1 CPU asked")


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_what_is_waited_for_is_a_line_in_a_terminal_and_in_a_log(
    run: Run, kind: type[io.StringIO]
) -> None:
    stream = kind()
    with EventProgressBar(run, "squeeze", 2, stream=stream):
        run.event("squeeze", event="waiting", why="1 CPU asked, 0 free")
        deadline = time.monotonic() + 20
        while "free\n" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "teachers: 1 CPU asked, 0 free\n" in stream.getvalue()
