"""The frame of a widget over a run: where there is no run to look at, it says so in words."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets

from prism_nb.data import ClassInfo, open_dataset
from prism_nb.errors import PrismError, UsageError
from prism_nb.monitor.place import Place, oddities, open_watched
from prism_nb.run import Run
from prism_nb.widgets.keyboard import KeyboardBox
from prism_nb.widgets.style import notice


class RunBox(KeyboardBox):
    """A widget over a run; a notice on top says what is the matter with the run, if anything is.

    Args:
        place: The run, or its folder.
    """

    def __init__(self, place: Place) -> None:
        self._opened: Run | None = None
        self._refusal = ""
        self.notice = widgets.HTML(layout={"display": "none"})
        parts: Sequence[widgets.Widget] = ()
        try:
            self._opened = open_watched(place)
            parts = self._build()
            self._look_for_oddities()
        except PrismError as error:
            self._opened, self._refusal = None, str(error)
            self._notify(f"Nothing to show: {error}")
        super().__init__([self.notice, *parts])

    @property
    def _run(self) -> Run:
        """The run.

        Raises:
            UsageError: There is none that can be looked at.
        """
        if self._opened is None:
            raise UsageError(self._refusal)
        return self._opened

    @property
    def _classes(self) -> tuple[ClassInfo, ...]:
        """The classes of the run's dataset; raises as `_run`."""
        return open_dataset(self._run.settings).classes

    def _build(self) -> Sequence[widgets.Widget]:
        """Make what is shown of the run, from top to bottom.

        Raises:
            PrismError: The run cannot be shown at all.
        """
        raise NotImplementedError

    def _look_for_oddities(self) -> None:
        self._notify(oddities(self._run))

    def _notify(self, words: str) -> None:
        self.notice.value = notice(words) if words else ""
        self.notice.layout.display = "" if words else "none"
