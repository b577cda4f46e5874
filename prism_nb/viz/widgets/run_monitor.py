"""Run monitor: start, stop and display the synthesis of a run while the kernel stays free."""

from __future__ import annotations

import html
import math
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.text import format_duration
from prism_nb.viz import monitor
from prism_nb.viz.html import EncodedImage, render_page
from prism_nb.viz.monitor import PreviewSequence, RunState, RunTracker, load_previews
from prism_nb.viz.style import color_at, dash_of
from prism_nb.viz.widgets.base import RunOrPath, RunWidget, control_style, dropdown, set_options

_IDLE = 3  # refreshes are this many times rarer while no process drives the run
_OPEN: dict[Path, RunMonitor] = {}

Start = Callable[[Run], "subprocess.Popen[bytes]"]


class RunMonitor(RunWidget):
    """A view of a run's files, and two buttons that start and stop the process that writes them.

    It shows the same if another kernel or a cluster drives the run, and a new monitor of a run in
    progress reads its state from the files. A kernel has one monitor per run: a new one replaces
    the one before.

    Args:
        place: A run, or its folder.
        every: Seconds between two refreshes; 0: only `refresh` does it.
        start: Starts the synthesis in a process.
    """

    def __init__(
        self, place: RunOrPath, *, every: float = 1.0, start: Start = monitor.start_stage
    ) -> None:
        self._launch, self._ended, self._lock = start, threading.Event(), threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping, self._problem = False, ""
        self._state = RunState(units=0, done=0)
        self.start = widgets.Button(tooltip="Do the unfinished units in a process of their own")
        self.stop = widgets.Button(description="Stop", tooltip="Stop it; finished units are kept")
        self.message, self.numbers, self.losses = (widgets.HTML() for _ in range(3))
        self.start.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._stop())
        super().__init__(place)
        if self._opened is None:
            return
        self.refresh()
        if every:
            self._follow(every)

    def _build(self) -> list[widgets.Widget]:
        self._tracker, self.previews = RunTracker(self._run), PreviewViewer(self._run)
        buttons = widgets.HBox([self.start, self.stop])
        return [buttons, self.message, self.numbers, self.losses, self.previews]

    def refresh(self) -> None:
        """Read the run's files now and show their state."""
        with self._lock:
            try:
                self._state = self._tracker.read()
            except (PrismError, OSError) as error:
                self.message.value = message_html(f"The run cannot be read: {error}")
                return
            self._check_child()
            self._show()
            self.previews.refresh()

    def close(self) -> None:
        """Stop refreshing; the run continues."""
        self._ended.set()
        if self._opened is not None and _OPEN.get(self._run.path.resolve()) is self:
            del _OPEN[self._run.path.resolve()]
        super().close()

    def _start(self) -> None:
        with self._lock:
            self._problem = ""
            try:
                self._child = self._launch(self._run)
            except PrismError as error:
                self._problem = str(error)
        self.refresh()

    def _stop(self) -> None:
        with self._lock:
            self._problem = ""
            try:
                if self._state.driver is not None:
                    monitor.stop_process(self._state.driver)
                    self._stopping = True
            except PrismError as error:
                self._problem = str(error)
        self.refresh()

    def _check_child(self) -> None:
        """Forget a process that has ended, and report an end with an error."""
        self._stopping = self._stopping and self._state.driver is not None
        code = None if self._child is None else self._child.poll()
        if code is not None:
            self._child = None
            if code not in {0, 130}:  # 130: interrupted, as Stop does
                line = monitor.last_log_line(self._run)
                self._problem = f"The process ended with code {code}{': ' if line else ''}{line}"

    @property
    def _is_starting(self) -> bool:
        return self._child is not None and self._state.driver is None

    def _show(self) -> None:
        state, message = self._state, self._state.message
        if self._is_starting:
            message = "Starting: a process loads the networks."
        elif self._stopping:
            message = "Stopping after the current step."
        self.start.description = "Resume" if state.done and state.missing else "Start"
        self.start.disabled = self._is_starting or state.driver is not None or not state.missing
        self.stop.disabled = self._stopping or not monitor.can_be_stopped(state.driver)
        self.message.value = message_html(message, self._problem)
        self.numbers.value = numbers_html(state)
        self.losses.value = losses_html(state)

    def _follow(self, every: float) -> None:
        """Refresh in a thread, in place of an older monitor of the run."""
        path = self._run.path.resolve()
        if path in _OPEN:
            _OPEN[path].close()
        _OPEN[path] = self
        threading.Thread(target=self._refresh_until_done, args=(every,), daemon=True).start()

    def _refresh_until_done(self, every: float) -> None:
        while self._state.status != "finished" or self._is_starting:
            idle = self._state.driver is None and self._child is None
            if self._ended.wait(every * _IDLE if idle else every):
                return
            try:
                self.refresh()
            except Exception as error:  # a thread's error would not be visible in the notebook
                text = f"The monitor has stopped: {type(error).__name__}: {error}"
                self.message.value = message_html(text)
                return


class PreviewViewer(widgets.VBox):
    """Previews of a unit's images, with a choice of unit and of step.

    The newest unit and its last picture are followed until others are chosen.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._sequences = run, list[PreviewSequence]()
        self._lock = threading.RLock()  # a thread changes options while the user chooses
        self.unit = dropdown("Unit", [_NEWEST], width=340, label=40)
        self.step = widgets.SelectionSlider(
            options=[0], description="Step", **control_style(340, 40)
        )
        self.sheet = widgets.HTML()
        self._choice = widgets.HBox([self.unit, self.step], layout={"flex_flow": "row wrap"})
        super().__init__([self._choice, self.sheet])
        self.unit.observe(lambda _: self._show(), names="value")
        self.step.observe(lambda _: self._draw(), names="value")

    def refresh(self) -> None:
        """Find new previews."""
        with self._lock:
            self._sequences = load_previews(self._run)
            set_options(self.unit, [_NEWEST, *sorted(each.unit for each in self._sequences)])
            self._show()

    @property
    def _shown(self) -> PreviewSequence | None:
        chosen = self.unit.value
        return next((s for s in self._sequences if chosen in {_NEWEST, s.unit}), None)

    def _show(self) -> None:
        with self._lock:
            sequence = self._shown
            self._choice.layout.display = "" if sequence else "none"
            if sequence is None:
                self.sheet.value = self._nothing()
                return
            at_end = self.step.index == len(self.step.options) - 1
            with self.sheet.hold_sync():
                set_options(self.step, sequence.preview_steps)
                if at_end:
                    self.step.value = sequence.preview_steps[-1]
                self._draw()

    def _draw(self) -> None:
        with self._lock:
            sequence = self._shown
            if sequence is not None and self.step.value in sequence.preview_steps:
                names = [str(info["name"]) for info in self._run.read_classes() or []]
                self.sheet.value = preview_html(sequence, self.step.value, names)

    def _nothing(self) -> str:
        if self._run.settings.preview_every == 0:
            return "<p>No pictures: the run's <code>preview_every</code> is 0.</p>"
        return "<p>No pictures yet: they come with the first steps of an optimised unit.</p>"


_NEWEST = "newest"


def message_html(message: str, problem: str = "") -> str:
    """Return the state as text; screen readers announce a change."""
    line = f"<div>{html.escape(problem)}</div>" if problem else ""
    return f'<div role="status"><b>{html.escape(message)}</b>{line}</div>'


def numbers_html(state: RunState) -> str:
    """Return a bar of the share that is done, and the numbers."""
    within = state.step / state.steps if state.steps else 0.0
    share = min(1.0, (state.done + within) / max(1, state.units))
    facts = [f"{share:.0%}", f"{state.done} of {state.units} units done, {state.missing} missing"]
    if state.driver is not None:
        at = f", step {state.step} of {state.steps}" if state.steps else ""
        facts.append(f"at work: {state.unit}{at}" if state.unit else "preparing")
    if state.missing:
        left = state.seconds_left
        facts.append(f"time left: {'not known yet' if left is None else format_duration(left)}")
    line = " · ".join(f'<span style="white-space:nowrap">{html.escape(f)}</span>' for f in facts)
    bar = f'<progress value="{share:.4f}" max="1" aria-label="synthesis" style="width:24em">'
    return f"{bar}</progress><div>{line}</div>"


def losses_html(state: RunState) -> str:
    """Return the losses of the newest unit: drawn on a logarithmic axis, and as numbers.

    Only positive finite values are drawn.
    """
    if not state.losses:
        return "<p>No losses yet: they come with the first steps of an optimised unit.</p>"
    left, right, top, bottom = 62, 548, 12, 210  # of the axes, in the drawing of the template
    logs = {
        term: [(step, math.log10(value)) for step, value in line if 0 < value < math.inf]
        for term, line in state.losses.items()
    }
    powers = [power for line in logs.values() for _, power in line] or [0.0]
    low = math.floor(min(powers))
    high = max(low + 1, math.ceil(max(powers)))
    steps = max([1, state.steps, *(step for line in logs.values() for step, _ in line)])

    def x(step: float) -> float:
        return round(left + (right - left) * step / steps, 1)

    def y(power: float) -> float:
        return round(bottom - (bottom - top) * (power - low) / (high - low), 1)

    lines = [
        {
            "term": term,
            "points": " ".join(f"{x(step)},{y(power)}" for step, power in line),
            "color": color_at(index),
            "dashes": dash_of(index).replace("solid", "none"),
            "latest": f"{state.losses[term][-1][1]:.4g}",
        }
        for index, (term, line) in enumerate(logs.items())
    ]
    grid = range(low, high + 1, -(-(high - low) // 8))
    return render_page(
        "losses.html",
        unit=state.losses_of,
        powers=[(power, y(power)) for power in grid],
        steps=[(step, x(step)) for step in (0, steps // 2, steps)],
        lines=lines,
    )


def preview_html(sequence: PreviewSequence, step: int, names: Sequence[str]) -> str:
    """Return the images at a step with their classes, and the networks drawn for them.

    Args:
        sequence: The unit's pictures.
        step: A step with a picture.
        names: Class names in order.
    """
    tiles = []
    for png, (c, image_index) in zip(sequence.tiles(step), sequence.images, strict=False):
        name = names[c] if c < len(names) else f"class {c}"
        source = EncodedImage(png, "png").data_uri
        tiles.append({"name": name, "title": f"{name}, image {image_index}", "source": source})
    return render_page(
        "previews.html",
        unit=sequence.unit,
        step=step,
        steps=sequence.steps,
        tiles=tiles,
        bn_teachers=sequence.teachers_at(step),
        logit_teachers=sequence.logit_teachers_at(step),
    )
