"""A stage's progress from its events, as a share and as a terminal's bar."""

import io
import time

import pytest

from prism_nb.core.run import Run
from prism_nb.execution.progress import StageProgress, progress_bar


def test_units_and_steps_add_up() -> None:
    drawn: list[tuple[float, str]] = []
    progress = StageProgress(4, lambda share, text: drawn.append((share, text)))
    for event in (
        {"event": "unit_skipped", "unit": "a"},
        {"event": "unit_start", "unit": "b"},
        {"event": "step", "unit": "b", "step": 5, "steps": 10},
        {"event": "unit_end", "unit": "b"},
        {"event": "step", "unit": "c", "step": 10, "steps": 10},
        {"event": "waiting", "why": "1 CPU asked"},
    ):
        progress(event)
    assert drawn == [(0.25, ""), (0.375, "b"), (0.5, ""), (0.75, "c"), (0.75, "1 CPU asked")]


def test_the_share_never_exceeds_one() -> None:
    drawn: list[float] = []
    progress = StageProgress(1, lambda share, _: drawn.append(share))
    for _ in range(3):
        progress({"event": "unit_end"})
    assert drawn == [1.0, 1.0, 1.0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(text: str, stream: io.StringIO) -> None:
    deadline = time.monotonic() + 20
    while text not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_terminal_shows_new_events_only(run: Run) -> None:
    run.events.append("squeeze", event="unit_end", unit="before")
    terminal = Terminal()
    with progress_bar(run, "squeeze", 2, stream=terminal):
        run.events.append("squeeze", event="step", unit="net", step=1, steps=2)
        wait_for("net", terminal)
    assert "25%" in terminal.getvalue()
    assert "75%" not in terminal.getvalue()


def test_a_log_file_gets_no_bar(run: Run) -> None:
    log = io.StringIO()
    with progress_bar(run, "squeeze", 2, stream=log):
        run.events.append("squeeze", event="unit_end", unit="net")
    assert log.getvalue() == ""


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_reasons_for_waiting_are_printed(run: Run, kind: type[io.StringIO]) -> None:
    stream = kind()
    with progress_bar(run, "squeeze", 2, stream=stream):
        run.events.append("squeeze", event="waiting", why="1 CPU asked, 0 free")
        wait_for("free\n", stream)
    assert "squeeze: 1 CPU asked, 0 free\n" in stream.getvalue()
