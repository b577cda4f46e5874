"""Start, stop and follow the synthesis of a run while the kernel stays free."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from prism_nb.errors import PrismError
from prism_nb.monitor import driver as drivers
from prism_nb.monitor.follow import Follower
from prism_nb.monitor.place import Place
from prism_nb.monitor.state import RunState
from prism_nb.run import Run
from prism_nb.widgets.growing import Growing
from prism_nb.widgets.monitor_html import curve_html, numbers_html, words_html
from prism_nb.widgets.run_box import RunBox

_IDLE = 3  # looks are this much rarer while nobody drives the run
_OPEN: dict[Path, RunMonitor] = {}

Start = Callable[[Run], "subprocess.Popen[bytes]"]


class RunMonitor(RunBox):
    """A view over a run's files, and two buttons that start and stop what writes them.

    Whatever drives the run (Start, another kernel, a cluster) looks the same, and goes on when
    the kernel ends; a new monitor finds it by its files. A kernel has one monitor per run: a new
    one takes the place of the one before.

    Args:
        place: A run, or its folder.
        every: Seconds between two looks; 0: only when told to `refresh`.
        start: Starts the work in a process.
    """

    def __init__(self, place: Place, *, every: float = 1.0, start: Start = drivers.start) -> None:
        self._launch, self._ended, self._lock = start, threading.Event(), threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._asked, self._problem, self._key = "", "", Path()
        self._before: float | None = None  # when the latest driver before ours began
        self._state = RunState(units=0, done=0)
        self.start = widgets.Button(
            tooltip="Do what is left of the synthesis, in a process of its own"
        )
        self.stop = widgets.Button(description="Stop", tooltip="Stop it; finished units are kept")
        self.words, self.numbers, self.curve = (widgets.HTML() for _ in range(3))
        self.start.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._stop())
        super().__init__(place)
        if self._opened is None:
            return
        self.refresh()
        if every:
            self._watch(every)

    def _build(self) -> list[widgets.Widget]:
        self._follower, self.growing = Follower(self._run), Growing(self._run)
        self.growing.unit.observe(lambda _: self._show_curve(), names="value")
        buttons = widgets.HBox([self.start, self.stop])
        return [buttons, self.words, self.numbers, self.curve, self.growing]

    def refresh(self) -> None:
        """Look at the files now."""
        with self._lock:
            try:
                self._look_for_oddities()
                self._state = self._follower.read()
            except (PrismError, OSError) as error:
                self._say(f"The run cannot be read: {error}")
                return
            self._settle()
            self.growing.refresh([curve.unit for curve in self._state.curves])
            self._show()

    def close(self) -> None:
        """Stop looking; the run goes on."""
        self._ended.set()
        if _OPEN.get(self._key) is self:
            del _OPEN[self._key]
        super().close()

    # -- starting and stopping ---------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            self._problem = ""
            try:
                self._child, self._asked = self._launch(self._run), "start"
                self._before = self._state.started
            except PrismError as error:
                self._problem = str(error)
        self.refresh()

    def _stop(self) -> None:
        with self._lock:
            self._problem = ""
            try:
                if self._state.driver is not None:
                    self._state.driver.stop()
                    self._asked = "stop"
            except PrismError as error:
                self._problem = str(error)
        self.refresh()

    def _settle(self) -> None:
        """See what has become of what was asked for, and let an ended process go."""
        state = self._state
        code = None if self._child is None else self._child.poll()
        if code is not None:
            self._child, self._asked = None, ""
            if code and state.started == self._before:  # else the events say how it ended
                words = drivers.last_words(self._run) or "its process was killed"
                self._problem = f"It did not start: {words}"
        if (state.driver is None) == (self._asked == "stop"):
            self._asked = ""

    # -- showing -----------------------------------------------------------------------------

    def _show(self) -> None:
        state, busy = self._state, bool(self._asked)
        self.start.description = "Resume" if state.was_begun and state.missing else "Start"
        self.start.disabled = busy or state.is_running or not state.missing
        self.stop.disabled = busy or state.driver is None or not state.driver.can_be_stopped
        self._say(self._words())
        self.numbers.value = numbers_html(state)
        self._show_curve()

    def _show_curve(self) -> None:
        """Show the losses of the unit that was picked, or of the one at work."""
        state, picked = self._state, self.growing.picked
        self.curve.value = curve_html(state.curve_of(picked) if picked else state.curve, picked)

    def _words(self) -> str:
        if self._asked == "start":
            return "Starting: a process loads the networks."
        if self._asked == "stop":
            return "Stopping after the step at work."
        return self._state.words

    def _say(self, words: str) -> None:
        notes = [self._problem] if self._problem else []
        self.words.value = words_html(words, [*notes, *self._state.notes])

    # -- looking again and again -------------------------------------------------------------

    def _watch(self, every: float) -> None:
        """Look again and again beside the kernel's work, in place of an older monitor."""
        self._key = self._run.path.resolve()
        older = _OPEN.get(self._key)
        if older is not None:
            older.close()
        _OPEN[self._key] = self
        threading.Thread(target=self._look, args=(every,), daemon=True).start()

    def _look(self, every: float) -> None:
        """Refresh until the run is complete or the widget closed."""
        while not self._is_over():
            state = self._state
            awake = state.is_running or state.status == "checking" or bool(self._asked)
            if self._ended.wait(every if awake else _IDLE * every):
                return
            try:
                self.refresh()
            except Exception as error:  # a thread's error would be printed where nobody looks
                self._say(f"The monitor stopped looking: {type(error).__name__}: {error}")
                return

    def _is_over(self) -> bool:
        return self._state.status == "complete" and not self._asked
