"""Common base of the widgets over a run: keyboard use, a notice, and uniform controls."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import Javascript, display

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.manifest import newer_version_message
from prism_nb.core.run import Run
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.registry import open_dataset
from prism_nb.viz.tables import ALL_CLASSES, class_label, method_titles

RunOrPath = Run | Path | str  # a run, or its folder

# JupyterLab would take arrows and Enter for its own commands. It matches shortcuts from the
# focused element upwards, and stops at this attribute. A listener sets it, since widgets are drawn
# after their output, and drawn again in other views.
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
    """A widget over a run, with a notice on top if the run cannot be shown, or only in part.

    Args:
        place: The run, or its folder.
    """

    def __init__(self, place: RunOrPath) -> None:
        self._opened: Run | None = None
        self._refusal = ""
        self.notice = widgets.HTML(layout={"display": "none"})
        parts: Sequence[widgets.Widget] = ()
        try:
            self._opened = _open(place)
            parts = self._build()
            newer = newer_version_message(self._opened.manifest.read())
            if newer:
                self._notify(f"{newer[0].upper()}{newer[1:]}; update the kit to show all of it.")
        except PrismError as error:
            self._opened, self._refusal = None, str(error)
            self._notify(f"Nothing to show: {error}")
        super().__init__([self.notice, *parts])

    @property
    def _run(self) -> Run:
        """The run.

        Raises:
            UsageError: There is no run that can be shown.
        """
        if self._opened is None:
            raise UsageError(self._refusal)
        return self._opened

    @property
    def _classes(self) -> tuple[ClassInfo, ...]:
        """The classes of the run's dataset; raises as `_run`."""
        return open_dataset(self._run.settings).classes

    def _build(self) -> Sequence[widgets.Widget]:
        """Make the widgets of the run, from top to bottom.

        Raises:
            PrismError: The run cannot be shown at all.
        """
        raise NotImplementedError

    def _notify(self, text: str) -> None:
        self.notice.value, self.notice.layout.display = notice(text), ""


def _open(place: RunOrPath) -> Run:
    """Return the run to show.

    Raises:
        UsageError: There is no run that this version of the kit can read.
    """
    if isinstance(place, Run):
        return place
    path = Path(place).absolute()
    if not path.is_dir():
        raise UsageError(f"no folder {path}; name a run's folder, under runs_dir")
    if (path / "study.json").exists():
        raise UsageError(f"{path} is a study's folder; name one of the runs in it")
    if not (path / "config.yaml").is_file():
        raise UsageError(
            f"no run has begun in {path}: it has no config.yaml; open a notebook on it"
        )
    return Run.open(path)


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


def set_options(control: Any, options: Sequence[Any]) -> None:
    """Change what can be chosen; what was chosen stays chosen if it can be.

    Args:
        control: A selection widget, of one option or of several.
        options: Values, or pairs of label and value.
    """
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    if isinstance(control, widgets.SelectMultiple):
        remaining = [value for value in control.value if value in values]
        control.value = ()  # a browser would search the new options for the old selection
        control.options = options
        control.value = remaining
    elif list(control.options) != list(options):
        chosen = control.value
        control.options = options
        if chosen in values:
            control.value = chosen


_CSS = """
.prism-picker {max-width: 860px}
.prism-picker h4 {margin: 10px 0 2px; font-size: 14px; font-weight: 600}
.prism-picker p {margin: 2px 0; line-height: 1.45}
.prism-picker .prism-quiet {color: var(--jp-ui-font-color2, #666)}
.prism-list select, .prism-head {font-family: var(--jp-code-font-family, monospace);
  font-size: 12px; line-height: 1.45; white-space: pre}
.prism-head {color: var(--jp-ui-font-color2, #666); padding-left: 3px}
.prism-list > label {position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%)}
.prism-list select {color: var(--jp-ui-font-color1, #222)}
.prism-tables table {border-collapse: collapse; margin: 4px 0 8px; font-size: 12px}
.prism-tables th, .prism-tables td {padding: 2px 8px; text-align: right; font-weight: normal;
  white-space: nowrap; border-bottom: 1px solid var(--jp-border-color2, #ddd)}
.prism-tables th {color: var(--jp-ui-font-color2, #666)}
.prism-tables th:first-child, .prism-tables td:first-child {text-align: left; padding-left: 2px;
  white-space: normal; overflow-wrap: anywhere}
.prism-tables caption {text-align: left; padding: 2px; white-space: nowrap}
.prism-picker pre {margin: 4px 0; padding: 6px 10px; font-size: 12px; line-height: 1.4;
  background: var(--jp-layout-color2, #f4f4f4); color: var(--jp-ui-font-color1, #222);
  user-select: all; overflow: auto; max-height: 260px}
.prism-bar {display: inline-block; height: 9px; background: #4477AA; vertical-align: middle}
.prism-note {border-left: 3px solid #DDAA33; padding-left: 8px}
.prism-stop {border-left: 3px solid #EE6677; padding-left: 8px}
.prism-good {border-left: 3px solid #228833; padding-left: 8px}
.prism-tables .prism-heat th[scope=col], .prism-heat td {text-align: center; min-width: 34px;
  padding: 4px 6px}
"""


def css() -> widgets.HTML:
    """Return an invisible widget with the common CSS of the widgets."""
    return widgets.HTML(f"<style>{_CSS}</style>", layout={"display": "none"})


def heading(text: str) -> widgets.HTML:
    """Return a heading."""
    return widgets.HTML(f"<h4>{html.escape(text)}</h4>")


def note_html(text: str, kind: str = "quiet") -> str:
    """Return a paragraph of plain text.

    Args:
        text: The text, escaped here.
        kind: `quiet`, `note` (beware), `stop` (cannot be used) or `good`.
    """
    return f'<p class="prism-{kind}">{html.escape(text)}</p>'


def notice(text: str) -> str:
    """Return a notice above a widget, as HTML with its own style."""
    style = "border-left:3px solid #DDAA33;padding-left:8px;margin:2px 0"
    return f'<p role="status" style="{style}">{html.escape(text)}</p>'
