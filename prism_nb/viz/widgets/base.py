"""Keys that reach a widget: JupyterLab would take arrows and Enter for its own commands."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import Javascript, display

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.registry import open_dataset
from prism_nb.viz.monitor import RunOrPath, open_for_viewing, version_warning
from prism_nb.viz.style import notice

# JupyterLab matches shortcuts from the focused element upwards, and stops at this attribute. A
# listener, since widgets are drawn after their output, and drawn again in other views.
_KEEP_KEYS = """
document.addEventListener("focusin", (event) => {
  if (event.target.closest(".prism-keys"))
    event.target.setAttribute("data-lm-suppress-shortcuts", "true");
});
"""


class KeyboardBox(widgets.VBox):
    """A box whose lists and buttons can be used by keyboard inside a notebook's output."""

    def _ipython_display_(self) -> None:
        self.add_class("prism-keys")
        display(self._repr_mimebundle_(), raw=True)
        display(Javascript(_KEEP_KEYS))


class RunWidget(KeyboardBox):
    """A widget over a run; a notice on top says what is the matter with the run, if anything is.

    Args:
        place: The run, or its folder.
    """

    def __init__(self, place: RunOrPath) -> None:
        self._opened: Run | None = None
        self._refusal = ""
        self.notice = widgets.HTML(layout={"display": "none"})
        parts: Sequence[widgets.Widget] = ()
        try:
            self._opened = open_for_viewing(place)
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
        self._notify(version_warning(self._run))

    def _notify(self, words: str) -> None:
        self.notice.value = notice(words) if words else ""
        self.notice.layout.display = "" if words else "none"
