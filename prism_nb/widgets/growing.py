"""The pictures of a batch as it grows: the latest as they come, or any step by hand."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import ipywidgets as widgets

from prism_nb.errors import PrismError
from prism_nb.monitor.pictures import Film, films
from prism_nb.run import Run
from prism_nb.widgets.monitor_html import film_html

_LATEST = "latest"
_NOW = -1  # stands for the latest step


class Growing(widgets.VBox):
    """A choice of unit and step over the pictures that a run keeps.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._films, self._names = run, list[Film](), list[str]()
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
            self._films = films(self._run)
            units = {*(film.unit for film in self._films), *others}
            self._offer(self.unit, [_LATEST, *sorted(units)])
            self._draw()

    def _picked(self, _: object) -> None:
        with self._lock:
            if not self._offering:
                self._draw()

    def _film(self) -> Film | None:
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
                self.sheet.value = film_html(film, step, self._class_names())

    def _draw_nothing(self) -> None:
        for control in (self.step, self.earlier, self.later):
            control.disabled = True
        self._drawn, self.sheet.value = None, self._nothing()

    def _is_last(self, film: Film) -> bool:
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
        if self._run.settings.snapshot_every == 0:
            return "<p>No pictures: the run's <code>snapshot_every</code> is 0.</p>"
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
