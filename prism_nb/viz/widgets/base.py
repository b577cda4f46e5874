"""Common parts of the widgets: keyboard use, controls and notes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import Javascript, display

from prism_nb.core.run import Run
from prism_nb.data.dataset import ClassInfo
from prism_nb.viz.classes import ALL_CLASSES, class_label
from prism_nb.viz.html import render_page
from prism_nb.viz.inspector import inspector_script
from prism_nb.viz.tables import method_titles

# JupyterLab would take arrows and Enter for its own commands. It matches shortcuts from the
# focused element upwards, and stops at this attribute. A listener sets it, since widgets are drawn
# after their output, and drawn again in other views.
# Enter in a field, and a double click in a list, press the button of the box around them.
# Sliders of ipywidgets have no name, and the arrows of its lists are black in every theme.
_KEYS = """
if (!window.prismKeys) {
  window.prismKeys = true;
  const arrow = "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18' fill='none' " +
    "stroke='%23808080' stroke-width='2'%3E%3Cpath d='M5 7l4 4 4-4'/%3E%3C/svg%3E";
  const style = document.createElement("style");
  style.textContent =
    `.prism-keys { --jp-widgets-dropdown-arrow: url("data:image/svg+xml,${arrow}"); }`;
  document.head.append(style);
  const name = () => {
    for (const handle of document.querySelectorAll(".prism-keys .noUi-handle:not([aria-label])")) {
      const label = handle.closest(".jupyter-widgets")?.querySelector(".widget-label");
      if (label) handle.setAttribute("aria-label", label.textContent);
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  document.addEventListener("focusin", (event) => {
    if (event.target.closest(".prism-keys"))
      event.target.setAttribute("data-lm-suppress-shortcuts", "true");
  });
  const press = (event) => event.target.closest(".prism-enter")?.querySelector("button").click();
  document.addEventListener("dblclick", (event) => {
    if (event.target.closest("select[multiple]")) press(event);
  });
  const enter = (event) => {
    if (event.key === "Enter" && event.target.matches("input, select[multiple]")) press(event);
  };
  document.addEventListener("keydown", enter, true);  // text fields keep their keys to themselves
}
"""


class KeyboardBox(widgets.VBox):
    """A box whose controls can be used by keyboard in a notebook, and whose images be inspected."""

    def _ipython_display_(self) -> None:
        self.add_class("prism-keys")
        display(self._repr_mimebundle_(), raw=True)
        display(Javascript(f"{_KEYS}{inspector_script()}"))


def control_style(width: int = 400, label: int = 90) -> dict[str, Any]:
    """Return the `layout` and `style` of a control, for both widths in pixels."""
    return {"layout": {"width": f"{width}px"}, "style": {"description_width": f"{label}px"}}


def dropdown(
    title: str, options: Sequence[Any], value: Any = None, *, width: int = 400, label: int = 90
) -> widgets.Dropdown:
    """Return a list of options to choose one of, at first the given value, or the first."""
    chosen = {} if value is None else {"value": value}
    return widgets.Dropdown(
        options=options, description=title, **chosen, **control_style(width, label)
    )


def method_choice(run: Run, chosen: int | None = None) -> widgets.SelectMultiple:
    """Return a list of a run's methods and the real images, the first of them chosen."""
    titles = method_titles(run)
    return widgets.SelectMultiple(
        options=[(title, name) for name, title in titles.items()],
        value=[*titles][:chosen],
        description="Images",
        rows=min(6, len(titles)) + 1,
        **control_style(),
    )


def class_choice(classes: Sequence[ClassInfo]) -> widgets.Combobox:
    """Return a text field for classes, the first of them chosen."""
    labels = [class_label(info) for info in classes]
    return widgets.Combobox(
        options=[ALL_CLASSES, *labels],
        value=labels[0],
        placeholder="a name, a number, 3-7, or several",
        description="Classes",
        continuous_update=False,
        **control_style(),
    )


def set_options(
    control: widgets.SelectMultiple | widgets.Dropdown | widgets.SelectionSlider,
    options: Sequence[Any],
) -> None:
    """Change what can be chosen; what was chosen stays chosen if it can be.

    Args:
        control: The list.
        options: Values, or pairs of label and value.
    """
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    chosen = control.value
    if isinstance(control, widgets.SelectMultiple):
        control.value = ()  # a browser would search the new options for the old selection
        control.options = options
        control.value = [value for value in chosen if value in values]
    elif tuple(control.options) != tuple(options):
        control.options = options
        if chosen in values:
            control.value = chosen


def css() -> widgets.HTML:
    """Return an invisible widget with the common CSS of the widgets."""
    return widgets.HTML(render_page("widgets.html"), layout={"display": "none"})


def show_html(output: widgets.Output, text: str) -> None:
    """Show HTML in place of an output's content; unlike in `widgets.HTML`, its links open files."""
    data = {"text/html": text, "text/plain": ""}
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)


def heading(text: str) -> widgets.HTML:
    """Return a heading."""
    return widgets.HTML(f"<h3>{html.escape(text)}</h3>")


def note_html(text: str, kind: str = "quiet") -> str:
    """Return a paragraph of plain text.

    Args:
        text: The text, escaped here; empty: no paragraph.
        kind: `plain`, `quiet`, `note` (beware), `stop` (cannot be used) or `good`.
    """
    return f'<p class="prism-{kind}">{html.escape(text)}</p>' if text else ""
