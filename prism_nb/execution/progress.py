"""Events of a stage as they are written, and the progress computed from them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from prism_nb.core.run import Run
from prism_nb.core.text import format_duration
from prism_nb.core.units import OnEvent

_POLL_SECONDS = 0.5


@contextmanager
def follow_events(run: Run, stage: str, on_event: OnEvent) -> Iterator[None]:
    """Pass on a stage's events, from any process, that are logged while the context is entered.

    `on_event` is called from a thread, for each event in the log's order.
    """
    position = run.events.read_after(stage, 0)[1]
    stop = threading.Event()

    def pass_on() -> None:
        nonlocal position
        events, position = run.events.read_after(stage, position)
        for event in events:
            on_event(event)

    def follow() -> None:
        while not stop.wait(_POLL_SECONDS):
            pass_on()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        pass_on()


class StageProgress:
    """Turns a stage's events into the completed share of its units and of their steps.

    It calls `draw(share, text)` with the share in [0, 1], and a line such as `2 of 6, about 40 s
    left, prism/images000-004`, or the reason for waiting.
    """

    def __init__(self, units: int, draw: Callable[[float, str], None]) -> None:
        self._units, self._completed, self._share = max(1, units), 0, 0.0
        self._begin, self._share_before = 0.0, 0.0
        self._draw = draw

    def __call__(self, event: dict[str, Any]) -> None:
        """Count one event."""
        kind, self._begin = event.get("event"), self._begin or time.monotonic()
        if kind in {"unit_skipped", "unit_end"} and "parent" not in event:
            self._completed += 1
            if kind == "unit_skipped":
                self._share_before += 1 / self._units
            self._advance(self._completed, "")
        elif kind == "step":
            self._advance(self._completed + event["step"] / event["steps"], event["unit"])
        elif kind == "unit_start":
            self._advance(self._completed, event["unit"])
        elif kind == "waiting":
            self._draw(self._share, event["why"])

    def _advance(self, units: float, unit: str) -> None:
        # A unit ends after the next one's first steps, since files are written in the background.
        self._share = max(self._share, min(1.0, units / self._units))
        count = f"{min(self._completed, self._units)} of {self._units}"
        self._draw(self._share, ", ".join(filter(None, [count, self._time_left(), unit])))

    def _time_left(self) -> str:
        """Return the time left at the pace so far, without the units that were done before."""
        made, left = self._share - self._share_before, 1 - self._share
        if made <= 0 or left <= 0:
            return ""
        return f"about {format_duration((time.monotonic() - self._begin) * left / made)} left"


@contextmanager
def progress_bar(run: Run, stage: str, units: int) -> Iterator[None]:
    """Show the progress of a stage that any process works on, while the context is entered.

    The bar is drawn in a terminal only. Reasons for waiting are printed as lines in a terminal and
    in a log file.
    """
    with tqdm(
        total=1.0,
        desc=f"{stage:<10}",
        disable=None,  # unless in a terminal
        file=sys.stdout,
        leave=False,
        bar_format="{desc} {percentage:3.0f}% |{bar:24}| {elapsed}{postfix}",
    ) as bar:

        def draw(share: float, text: str) -> None:
            bar.set_postfix_str(text, refresh=False)
            bar.n = share
            bar.refresh()

        progress = StageProgress(units, draw)

        def show(event: dict[str, Any]) -> None:
            progress(event)
            if event["event"] == "waiting":
                tqdm.write(f"{stage}: {event['why']}")

        with follow_events(run, stage, show):
            yield
