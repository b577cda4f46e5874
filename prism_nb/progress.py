"""Progress as a listener to events: one bar per stage, in a terminal or a notebook."""

from __future__ import annotations

import sys
import threading
from typing import Any, Self, TextIO

from tqdm import tqdm

from prism_nb.run import Run


class StageBar:
    """A bar that fills by units, and within a unit by its steps.

    Use as a context manager; call it with events.

    Args:
        stage: Label of the bar.
        units: Number of units of the stage.
        visible: Whether to draw it.
        stream: Where to draw; standard output, so that notebooks do not show it as an error.
    """

    def __init__(
        self, stage: str, units: int, *, visible: bool = True, stream: TextIO | None = None
    ) -> None:
        self._done, self._units = 0, max(1, units)
        self._bar = tqdm(
            total=self._units,
            desc=f"{stage:<10}",
            disable=not visible,
            file=stream or sys.stdout,
            mininterval=1.0,
            bar_format="{desc} {percentage:3.0f}% |{bar:24}| {elapsed} {postfix}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take note of one event."""
        kind = event.get("event")
        if kind in {"kept", "end"}:
            self._done += 1
            self._move(self._done, "")
        elif kind == "step":
            self._move(self._done + event["step"] / event["steps"], str(event.get("unit", "")))

    def _move(self, position: float, unit: str) -> None:
        self._bar.set_postfix_str(unit, refresh=False)
        self._bar.update(max(0.0, min(position, self._units) - self._bar.n))


class FollowedBar:
    """A bar over a stage that another process works on, read from the run's event log.

    Only events written after it was made count, so that an earlier call does not show. It is drawn
    in a terminal only, not into a log file.
    """

    def __init__(self, run: Run, stage: str, units: int, *, stream: TextIO | None = None) -> None:
        self._run, self._stage = run, stage
        self._position = run.events_after(stage, 0)[1]
        terminal = (stream or sys.stdout).isatty()
        self._bar = StageBar(stage, units, visible=terminal, stream=stream)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._catch_up()
        self._bar.__exit__()

    def _follow(self) -> None:
        while not self._stop.wait(1.0):
            self._catch_up()

    def _catch_up(self) -> None:
        events, self._position = self._run.events_after(self._stage, self._position)
        for event in events:
            self._bar(event)
