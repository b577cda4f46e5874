"""Keys that reach a widget: JupyterLab would take arrows and Enter for its own commands."""

from __future__ import annotations

import ipywidgets as widgets
from IPython.display import Javascript, display

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
