"""Start, stop and follow the synthesis of a run while the kernel stays free."""

from __future__ import annotations

import base64
import html
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.text import format_duration
from prism_nb.viz import monitor as drivers
from prism_nb.viz.monitor import (
    Curve,
    PreviewSequence,
    RunOrPath,
    RunState,
    RunTracker,
    curves_svg,
    load_previews,
    loss_terms_table,
)
from prism_nb.viz.widgets.base import RunWidget

_IDLE = 3  # looks are this much rarer while nobody drives the run
_OPEN: dict[Path, RunMonitor] = {}

Start = Callable[[Run], "subprocess.Popen[bytes]"]


class RunMonitor(RunWidget):
    """A view over a run's files, and two buttons that start and stop what writes them.

    Whatever drives the run (Start, another kernel, a cluster) looks the same, and goes on when
    the kernel ends; a new monitor finds it by its files. A kernel has one monitor per run: a new
    one takes the place of the one before.

    Args:
        place: A run, or its folder.
        every: Seconds between two looks; 0: only when told to `refresh`.
        start: Starts the work in a process.
    """

    def __init__(
        self, place: RunOrPath, *, every: float = 1.0, start: Start = drivers.start_stage
    ) -> None:
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
        self._follower, self.growing = RunTracker(self._run), PreviewViewer(self._run)
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
                words = drivers.last_log_line(self._run) or "its process was killed"
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
        self.words.value = message_html(words, [*notes, *self._state.notes])

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


_LATEST = "latest"
_NOW = -1  # stands for the latest step


class PreviewViewer(widgets.VBox):
    """A choice of unit and step over the pictures that a run keeps.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._films, self._names = run, list[PreviewSequence](), list[str]()
        self._drawn: tuple[str, int] | None = None
        self._offering = False
        self._lock = threading.RLock()  # options change beside what the user picks
        style, narrow = {"description_width": "40px"}, {"width": "90px"}
        self.unit = widgets.Dropdown(
            options=[_LATEST], description="Unit", style=style, layout={"width": "340px"}
        )
        self.step = widgets.Dropdown(
            options=[(_LATEST, _NOW)], description="Step", style=style, layout={"width": "150px"}
        )
        self.earlier = widgets.Button(
            description="Earlier", tooltip="The picture before", layout=narrow
        )
        self.later = widgets.Button(description="Later", tooltip="The picture after", layout=narrow)
        self.sheet = widgets.HTML()
        self._controls = widgets.HBox(
            [self.unit, self.step, self.earlier, self.later], layout={"flex_flow": "row wrap"}
        )
        super().__init__([self._controls, self.sheet])
        self.unit.observe(self._picked, names="value")
        self.step.observe(self._picked, names="value")
        self.earlier.on_click(lambda _: self._move(-1))
        self.later.on_click(lambda _: self._move(1))

    @property
    def picked(self) -> str:
        """The unit that was picked by hand; empty where it is the latest."""
        return "" if self.unit.value == _LATEST else str(self.unit.value)

    def refresh(self, others: Sequence[str] = ()) -> None:
        """Look for new pictures, and show the latest where no other was picked.

        Args:
            others: Units that can be picked though there may be no pictures of them.
        """
        with self._lock:
            self._films = load_previews(self._run)
            units = {*(film.unit for film in self._films), *others}
            self._offer(self.unit, [_LATEST, *sorted(units)])
            self._draw()

    def _picked(self, _: object) -> None:
        with self._lock:
            if not self._offering:
                self._draw()

    def _film(self) -> PreviewSequence | None:
        """Return the film that is looked at."""
        wanted = self.unit.value
        chosen = (film for film in self._films if wanted in {_LATEST, film.unit})
        return next(chosen, None)

    def _draw(self) -> None:
        with self._lock:
            film = self._film()
            choice = film is not None or len(self.unit.options) > 2
            self._controls.layout.display = "" if choice else "none"
            if film is None:
                self._draw_nothing()
                return
            self.step.disabled = False
            self._offer(self.step, [(_LATEST, _NOW), *((str(at), at) for at in film.taken)])
            step = film.taken[-1] if self.step.value == _NOW else self.step.value
            self.earlier.disabled, self.later.disabled = step == film.taken[0], self._is_last(film)
            if (film.unit, step) != self._drawn:
                self._drawn = (film.unit, step)
                self.sheet.value = preview_html(film, step, self._class_names())

    def _draw_nothing(self) -> None:
        for control in (self.step, self.earlier, self.later):
            control.disabled = True
        self._drawn, self.sheet.value = None, self._nothing()

    def _is_last(self, film: PreviewSequence) -> bool:
        return self.step.value in {_NOW, film.taken[-1]}

    def _move(self, by: int) -> None:
        """Show the picture before or after."""
        film = self._film()
        if film is not None:
            at = film.taken[-1] if self.step.value == _NOW else self.step.value
            place = film.taken.index(at) + by if at in film.taken else 0
            self.step.value = film.taken[max(0, min(place, len(film.taken) - 1))]

    def _offer(self, choice: widgets.Dropdown, options: list[str] | list[tuple[str, int]]) -> None:
        """Change what can be chosen; what is chosen stays where it still is there."""
        if list(choice.options) == options:
            return
        values = [option[1] if isinstance(option, tuple) else option for option in options]
        picked = choice.value if choice.value in values else values[0]
        self._offering = True  # new options pick their first, for a moment
        choice.options = options
        choice.value = picked
        self._offering = False

    def _nothing(self) -> str:
        if self._run.settings.preview_every == 0:
            return "<p>No pictures: the run's <code>preview_every</code> is 0.</p>"
        if self._films:
            return "<p>No pictures of this unit: each method's latest unit has them.</p>"
        return "<p>No pictures yet: they come with the first steps of an optimised unit.</p>"

    def _class_names(self) -> list[str]:
        if not self._names:
            try:
                self._names = [str(info["name"]) for info in self._run.read_classes() or []]
            except PrismError:
                return []
        return self._names


_TILE = 72  # pixels on the screen


def message_html(words: str, notes: Sequence[str] = ()) -> str:
    """Return the state in words; a screen reader is told when they change."""
    lines = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    return f'<div role="status"><b>{html.escape(words)}</b>{lines}</div>'


def numbers_html(state: RunState) -> str:
    """Return how far the run is: a bar, and the numbers."""
    within = state.step / state.steps if state.steps else 0.0
    share = min(1.0, (state.done + within) / max(1, state.units))
    bar = f'<progress value="{share:.4f}" max="1" aria-label="synthesis" style="width:24em">'
    facts = [f"{share:.0%}", f"{state.done} of {state.units} units done, {state.missing} missing"]
    if state.is_running:
        at = f", step {state.step} of {state.steps}" if state.steps else ""
        facts.append(f"at work: {state.at_work}{at}" if state.at_work else "preparing")
    if state.missing:
        left = state.seconds_left
        facts.append(f"time left: {'not known yet' if left is None else format_duration(left)}")
    if state.is_running and state.images_per_minute is not None:
        facts.append(f"{state.images_per_minute:.3g} images per minute")
    line = " · ".join(f'<span style="white-space:nowrap">{html.escape(f)}</span>' for f in facts)
    return f"{bar}</progress><div>{line}</div>"


def curve_html(curve: Curve | None, picked: str = "") -> str:
    """Return the losses of a unit, drawn and as numbers.

    Args:
        curve: They; None where there are none.
        picked: The unit that was asked for; empty: any.
    """
    if curve is None and picked:
        return f"<p>No losses of {html.escape(picked)} in the event log.</p>"
    if curve is None:
        return "<p>No losses yet: they come with the first steps of an optimised unit.</p>"
    return (
        f"<b>Losses of {html.escape(curve.unit)}</b>"
        '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:center">'
        f"<div>{curves_svg(curve.terms, steps=curve.steps)}</div>"
        f"{loss_terms_table(curve.terms)}</div>"
    )


def preview_html(film: PreviewSequence, step: int, names: Sequence[str]) -> str:
    """Return one picture of a film, image by image, and below it which networks steer all of them.

    Args:
        film: The film.
        step: A step of which there is a picture.
        names: What each class is called, in order.
    """
    teachers = ", ".join(film.teachers_at(step))
    tiles = "".join(
        _tile(png, _called(names, class_index), image_index)
        for png, (class_index, image_index) in zip(film.tiles(step), film.images, strict=False)
    )
    begin = " (as it begins)" if step == film.taken[0] else ""
    return (
        f"<div><b>{html.escape(film.unit)}</b>, step {step} of {film.steps}{begin}; "
        f"BN teachers: {html.escape(teachers)}</div>"
        f'<div style="display:flex;flex-wrap:wrap;gap:6px;max-width:{10 * (_TILE + 6)}px">'
        f"{tiles or 'This picture is gone.'}</div>{_steered(film, step)}"
    )


def _steered(film: PreviewSequence, step: int) -> str:
    """Say which networks a picture's images were drawn by: a unit's images share them."""
    teachers, logit_teachers = ", ".join(film.teachers_at(step)), ", ".join(film.speakers_at(step))
    words = (
        f"Networks drawn for these images: BN statistics of {teachers}; logits of {logit_teachers}."
    )
    return f'<div class="prism-drawn">{html.escape(words)}</div>'


def _called(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def _tile(png: bytes, name: str, image_index: int) -> str:
    what = html.escape(f"{name}, image {image_index}")
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure style="margin:0;width:{_TILE}px" title="{what}">'
        f'<img alt="{what}" src="{source}" width="{_TILE}" '
        f'height="{_TILE}" style="image-rendering:pixelated;display:block">'
        '<figcaption style="text-align:center;line-height:1.3;overflow-wrap:anywhere">'
        f"{html.escape(name)}</figcaption></figure>"
    )
