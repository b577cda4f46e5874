"""A stage's progress from its events, as a share and as a terminal's bar."""

import io
import sys
import time

import pytest

from prism_nb.core.run import Run
from prism_nb.execution import progress as progress_module
from prism_nb.execution.progress import StageProgress, progress_bar


def test_units_and_steps_add_up_and_the_time_left_is_that_of_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(100, 200, 10))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(now))
    drawn: list[tuple[float, str]] = []
    progress = StageProgress(4, lambda share, text: drawn.append((share, text)))
    for event in (
        {"event": "unit_skipped", "unit": "a"},
        {"event": "unit_start", "unit": "b"},
        {"event": "step", "unit": "b", "step": 5, "steps": 10},
        {"event": "unit_end", "unit": "b"},
        {"event": "step", "unit": "c", "step": 10, "steps": 10},
        {"event": "waiting", "why": "1 CPU asked"},
        *[{"event": "unit_end", "unit": "of another count"}] * 3,
    ):
        progress(event)
    assert drawn[:3] == [
        (0.25, "1 of 4"),
        (0.25, "1 of 4, b"),
        (0.375, "1 of 4, about 50 s left, b"),  # an eighth took 10 s, five are left
    ]
    assert drawn[3:6] == [
        (0.5, "2 of 4, about 40 s left"),
        (0.75, "2 of 4, about 15 s left, c"),
        (0.75, "1 CPU asked"),
    ]
    assert drawn[6:] == [(0.75, "3 of 4, about 20 s left"), (1.0, "4 of 4"), (1.0, "4 of 4")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_terminal_shows_new_events_and_a_log_file_reasons_for_waiting(
    run: Run, kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = kind()
    monkeypatch.setattr(sys, "stdout", stream)
    run.events.append("squeeze", event="unit_end", unit="before")
    with progress_bar(run, "squeeze", 2):
        run.events.append("squeeze", event="step", unit="net", step=1, steps=2)
        run.events.append("squeeze", event="waiting", why="1 CPU asked, 0 free")
        deadline = time.monotonic() + 20
        while "free\n" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    shown = stream.getvalue()
    assert "squeeze: 1 CPU asked, 0 free\n" in shown
    assert ("25%" in shown) == (kind is Terminal)
    assert "75%" not in shown
