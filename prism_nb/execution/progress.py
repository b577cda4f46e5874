"""Progress as a listener to events: how far a stage is, drawn by whoever watches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Self, TextIO

from tqdm import tqdm

from prism_nb.core.run import Run

OnProgress = Callable[[float, str], None]


class StageProgress:
    """Turns a stage's events into a share of its units, and within a unit of its steps.

    Args:
        units: Number of units of the stage.
        draw: Given the share that is done, in [0, 1], and the name of the unit at work, or what is
            waited for.
    """

    def __init__(self, units: int, draw: OnProgress) -> None:
        self._units, self._done, self._shown = max(1, units), 0, 0.0
        self._draw = draw

    def __call__(self, event: dict[str, Any]) -> None:
        """Take note of one event."""
        kind = event.get("event")
        if kind in {"kept", "end"} and "parent" not in event:
            self._done += 1
            self._move(self._done, "")
        elif kind == "step":
            self._move(self._done + event["step"] / event["steps"], str(event.get("unit", "")))
        elif kind == "waiting":
            self._draw(self._shown, str(event.get("why", "")))

    def _move(self, units: float, unit: str) -> None:
        # a unit's end is told after the next one's first steps, while its files are written
        self._shown = max(self._shown, min(1.0, units / self._units))
        self._draw(self._shown, unit)


class EventProgressBar:
    """A terminal's bar over a stage that another process works on, read from its event log.

    Only events written after it was made count, so that an earlier call does not show. It is
    drawn in a terminal only, not into a log file; what is waited for is a line in both. Use it as
    a context manager.
    """

    def __init__(self, run: Run, stage: str, units: int, *, stream: TextIO | None = None) -> None:
        self._run, self._stage = run, stage
        self._position = run.events_after(stage, 0)[1]
        self._stream = stream = stream or sys.stdout
        self._bar = tqdm(
            total=1.0,
            desc=f"{stage:<10}",
            disable=not stream.isatty(),
            file=stream,
            leave=False,
            bar_format="{desc} {percentage:3.0f}% |{bar:24}| {elapsed}{postfix}",
        )
        self._progress = StageProgress(units, self._draw)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            events, self._position = self._run.events_after(self._stage, self._position)
            for event in events:
                self._progress(event)
                if event.get("event") == "waiting":
                    self._bar.write(f"{self._stage}: {event.get('why')}", file=self._stream)
            self._bar.refresh()

    def _draw(self, share: float, unit: str) -> None:
        self._bar.set_postfix_str(unit, refresh=False)
        self._bar.n = share
