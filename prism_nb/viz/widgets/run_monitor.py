"""Monitors of stages: start, stop and display a stage of a run while the kernel stays free."""

from __future__ import annotations

import html
import math
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.text import format_duration
from prism_nb.viz import monitor
from prism_nb.viz.findings import dominance
from prism_nb.viz.html import EncodedImage, render_page
from prism_nb.viz.monitor import LossCurves, PreviewSequence, Pull, RunTracker, load_previews
from prism_nb.viz.style import NETWORK_COLORS, color_at, dash_of, short_names
from prism_nb.viz.tables import method_titles
from prism_nb.viz.widgets.base import KeyboardBox, control_style, dropdown, set_options

_IDLE = 3  # refreshes are this many times rarer while no process drives the run
_OPEN: dict[tuple[Path, str], StageMonitor] = {}


class StageMonitor(KeyboardBox):
    """A view of a stage's files, and two buttons that start and stop the process that writes them.

    It shows the same if another kernel or a cluster drives the stage, and a new monitor of a stage
    in progress reads its state from the files. While it is displayed, a thread refreshes it. A
    kernel has one such monitor per stage of a run: a new one replaces the one before.

    Args:
        run: The run.
        stage: Name of the stage.
        labels: Labels of the button that starts the stage, and that continues it.
        views: Widgets to display below.

    Attributes:
        run: The run.
        tracker: The stage's state.
        obstacle: A reason of the owner's why the stage cannot be started; empty if there is none.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        *,
        labels: tuple[str, str] = ("Start", "Resume"),
        views: Sequence[widgets.Widget] = (),
    ) -> None:
        self._stage, self._labels = stage, labels
        self._ended, self._lock = threading.Event(), threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping, self._problem, self._every = False, "", 0.0
        self.obstacle = ""
        self.start = widgets.Button(tooltip="Do the unfinished units in a process of their own")
        self.stop = widgets.Button(description="Stop", tooltip="Stop it; finished units are kept")
        self.buttons = widgets.HBox([self.start, self.stop])
        self.message, self.numbers, self.device = (widgets.HTML() for _ in range(3))
        self.start.on_click(lambda _: self._start())
        self.stop.on_click(lambda _: self._stop())
        super().__init__([self.buttons, self.message, self.numbers, self.device, *views])
        self.use(run)

    def use(self, run: Run) -> None:
        """Show the stage of a run, such as this one with other settings."""
        with self._lock:
            self.run, self.tracker = run, RunTracker(run, self._stage)
        self.refresh()

    def refresh(self) -> None:
        """Read the stage's files now and show their state."""
        with self._lock:
            try:
                self.tracker.read()
            except (PrismError, OSError) as error:
                self.message.value = message_html(f"The run cannot be read: {error}")
                return
            self._check_child()
            self._show()

    def follow(self, every: float = 1.0) -> None:
        """Refresh in a thread until all is done, in place of an older monitor of the stage.

        Args:
            every: Seconds between two refreshes.
        """
        older = _OPEN.get(key := (self.run.path.resolve(), self._stage), self)
        if older is not self:
            older.close()
        _OPEN[key], self._every = self, every
        self._follow()

    def close(self) -> None:
        """Stop refreshing; the run continues."""
        self._ended.set()
        super().close()

    @property
    def is_busy(self) -> bool:
        """Whether a process does the stage, or is about to."""
        return self._child is not None or self.tracker.driver is not None

    def _ipython_display_(self) -> None:
        super()._ipython_display_()
        self.follow()

    def _start(self) -> None:
        with self._lock:
            self._problem = ""
            try:
                self._child = monitor.start_stage(self.run, self._stage)
            except OSError as error:
                self._problem = f"Cannot start: {error}"
        self.refresh()
        self._follow()

    def _stop(self) -> None:
        """Interrupt the driver as Ctrl-C does; the unit at work is given up."""
        with self._lock:
            self._problem, driver = "", self.tracker.driver
            if driver is not None:
                try:
                    os.kill(driver.process, signal.SIGINT)
                    self._stopping = True
                except OSError as error:  # it has ended, or belongs to another user
                    self._problem = f"Cannot stop process {driver.process}: {error.strerror}"
        self.refresh()

    def _check_child(self) -> None:
        """Forget a process that has ended, and report an end with an error."""
        self._stopping = self._stopping and self.tracker.driver is not None
        code = None if self._child is None else self._child.poll()
        if code is not None:
            self._child = None
            if code not in {0, 130}:  # 130: interrupted, as Stop does
                log = monitor.log_path(self.run, self._stage)
                lines = log.read_text("utf-8", "replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "")
                self._problem = f"The process ended with code {code}: {last}"

    def _show(self) -> None:
        tracker, message = self.tracker, self.tracker.message
        obstacle = self.obstacle or tracker.obstacle
        if self._child is not None and tracker.driver is None:
            message = "Starting: a process loads the networks."
        elif self._stopping:
            message = "Stopping after the current step."
        elif obstacle and not self.is_busy:
            message += f" Cannot start: {obstacle}."
        self.start.description = self._labels[bool(tracker.done and tracker.missing)]
        self.start.disabled = bool(self.is_busy or obstacle or not tracker.missing)
        self.stop.disabled = self._stopping or not monitor.can_be_stopped(tracker.driver)
        self.message.value = message_html(message, self._problem)
        self.numbers.value = numbers_html(tracker, self._stage)
        text = monitor.device_text(self.run.settings, self._stage, tracker.driver)
        self.device.value = f"<div>{html.escape(text)}</div>"

    def _follow(self) -> None:
        if self._every and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._refresh_until_done, daemon=True)
            self._thread.start()

    def _refresh_until_done(self) -> None:
        while self.tracker.missing or self.is_busy:
            if self._ended.wait(self._every if self.is_busy else self._every * _IDLE):
                return
            try:
                self.refresh()
            except Exception as error:  # a thread's error would not be visible in the notebook
                text = f"The monitor has stopped: {type(error).__name__}: {error}"
                self.message.value = message_html(text)
                return


class RunMonitor(StageMonitor):
    """A monitor of the synthesis, with losses, the networks' pull and previews of the images."""

    def __init__(self, run: Run) -> None:
        self._titles = method_titles(run)
        self.pulls, self.losses = widgets.HTML(), widgets.HTML()
        self.previews = PreviewViewer(run)
        views = [self.pulls, self.losses, self.previews]
        super().__init__(run, monitor.STAGE, views=views)

    def _show(self) -> None:
        super()._show()
        tracker, networks = self.tracker, self.run.settings.teachers
        self.pulls.value = pulls_html(tracker.pulls, self._titles, networks)
        steps = tracker.at_work.steps
        self.losses.value = losses_html(tracker.losses_of, steps, tracker.losses, networks)
        self.previews.refresh()


class PreviewViewer(widgets.VBox):
    """Previews of a unit's images, with a choice of unit and of step.

    The newest unit and its last picture are followed until others are chosen.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._sequences = run, list[PreviewSequence]()
        self._titles = method_titles(run)
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
            units = sorted(each.unit for each in self._sequences)
            set_options(self.unit, (_NEWEST, *((self._title(unit), unit) for unit in units)))
            self._show()

    def _title(self, unit: str) -> str:
        method, _, images = unit.partition("/")
        return f"{self._titles.get(method, method)}, {images}"

    @property
    def _shown(self) -> PreviewSequence | None:
        chosen = self.unit.value
        return next((s for s in self._sequences if chosen in {"", s.unit}), None)

    def _show(self) -> None:
        with self._lock:
            sequence = self._shown
            self._choice.layout.display = "" if sequence else "none"
            if sequence is None:
                reason = "they come with the first steps of an optimised unit"
                if self._run.settings.preview_every == 0:
                    reason = "the run's <code>preview_every</code> is 0"
                self.sheet.value = f"<p>No pictures yet: {reason}.</p>"
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
                names = [info["name"] for info in self._run.read_classes() or []]
                self.sheet.value = preview_html(sequence, self.step.value, names)


_NEWEST = ("newest", "")


def message_html(message: str, problem: str = "") -> str:
    """Return the state as text; screen readers announce a change."""
    line = f"<div>{html.escape(problem)}</div>" if problem else ""
    return f'<div role="status"><b>{html.escape(message)}</b>{line}</div>'


def numbers_html(tracker: RunTracker, stage: str) -> str:
    """Return a bar of the share that is done, and the numbers."""
    units, done, work = len(tracker.units), len(tracker.done), tracker.at_work
    facts = [f"{tracker.share:.0%}", f"{done} of {units} units done, {tracker.missing} missing"]
    if tracker.driver is not None:
        at = f", step {work.step} of {work.steps}" if work.steps else ""
        facts.append(f"at work: {tracker.unit}{at}" if tracker.unit else "preparing")
    if tracker.missing:
        left = tracker.seconds_left
        facts.append(f"time left: {'not known yet' if left is None else format_duration(left)}")
    line = " · ".join(f'<span style="white-space:nowrap">{html.escape(f)}</span>' for f in facts)
    bar = f'<progress value="{tracker.share:.4f}" max="1" aria-label="{stage}" style="width:24em">'
    return f"{bar}</progress><div>{line}</div>"


def pulls_html(
    pulls: Mapping[str, Pull], titles: Mapping[str, str], networks: Sequence[str]
) -> str:
    """Return a bar per method of the networks' shares of the gradient, and them in words.

    Args:
        pulls: The shares by method; nothing is shown of none.
        titles: The methods' titles.
        networks: The pool, whose order gives places and colours.
    """
    if not pulls:
        return ""
    rows, bn_shares, names = [], {}, short_names(networks)
    for method, pull in pulls.items():
        measured = f"at step {pull.step}"
        if pull.units > 1:
            measured = f"mean of the last measurements of {pull.units} units"
        shown = _shown_networks(pull, names)
        rows.append({"title": titles[method], "measured": measured, "networks": shown})
        bn_shares[titles[method]] = {n["name"]: n["bn"] for n in shown if n["bn"] is not None}
    return render_page("pulls.html", rows=rows, note=dominance(bn_shares))


def _shown_networks(pull: Pull, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return name, text, colour and shares of the networks that pull, in the pool's order."""
    shown = []
    for index, (network, name) in enumerate(names.items()):
        bn, logit = (pull.shares.get(f"{term}/{network}") for term in ("bn", "logit"))
        if bn is None and logit is None:
            continue
        text = f"{name} {(bn or 0) + (logit or 0):.0%}"
        if logit is not None:
            text += " (logits)" if bn is None else f" (logits {logit:.0%})"
        values = {"text": text, "color": color_at(index), "bn": bn, "logit": logit}
        shown.append({"name": name, **values})
    return shown


def losses_html(unit: str, steps: int, losses: LossCurves, networks: Sequence[str] = ()) -> str:
    """Return losses on a logarithmic axis of so many steps at least, and as numbers.

    Networks have the colours of their places in the pool, and dashes by term.
    """
    if not losses:
        return "<p>No losses yet: they come with the first steps of an optimised unit.</p>"
    left, right, top, bottom = 62, 548, 12, 210  # of the axes, in the drawing of the template
    logs = {
        term: [(step, math.log10(value)) for step, value in line if 0 < value < math.inf]
        for term, line in losses.items()
    }
    powers = [power for line in logs.values() for _, power in line] or [0.0]
    low = math.floor(min(powers))
    high = max(low + 1, math.ceil(max(powers)))
    steps = max([1, steps, *(step for line in logs.values() for step, _ in line)])

    def x(step: float) -> float:
        return round(left + (right - left) * step / steps, 1)

    def y(power: float) -> float:
        return round(bottom - (bottom - top) * (power - low) / (high - low), 1)

    names = short_names(networks)
    order = list(dict.fromkeys([*names, *(term.partition("/")[2] or term for term in logs)]))
    lines = []
    for term, line in logs.items():
        kind, _, network = term.partition("/")
        index = order.index(network or term)
        repeat = 2 * (index // len(NETWORK_COLORS))  # one dash for statistics, one for logits
        lines.append(
            {
                "term": f"{kind}/{names[network]}" if network in names else term,
                "points": " ".join(f"{x(step)},{y(power)}" for step, power in line),
                "color": color_at(index),
                "dashes": dash_of(repeat + (kind == "logit")).replace("solid", "none"),
                "latest": f"{losses[term][-1][1]:.4g}",
            }
        )
    grid = range(low, high + 1, -(-(high - low) // 8))
    return render_page(
        "losses.html",
        unit=unit,
        powers=[(power, y(power)) for power in grid],
        steps=[(step, x(step)) for step in (0, steps // 2, steps)],
        lines=lines,
    )


def preview_html(sequence: PreviewSequence, step: int, names: Sequence[str]) -> str:
    """Return the images at a step with their class names, and the networks drawn for them."""
    tiles = [
        {
            "name": names[c],
            "title": f"{names[c]}, image {image_index}",
            "source": EncodedImage(png, "png").data_uri,
        }
        for png, (c, image_index) in zip(sequence.tiles(step), sequence.images, strict=False)
    ]
    return render_page(
        "previews.html",
        unit=sequence.unit,
        step=step,
        steps=sequence.steps,
        tiles=tiles,
        bn_teachers=sequence.teachers_at(step),
        logit_teachers=sequence.logit_teachers_at(step),
    )
