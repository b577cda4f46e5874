"""How the widgets look, in light and in dark: colours are JupyterLab's own."""

from __future__ import annotations

import html

import ipywidgets as widgets

_RULES = """
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


def rules() -> widgets.HTML:
    """Return an invisible widget that brings the look along."""
    return widgets.HTML(f"<style>{_RULES}</style>", layout={"display": "none"})


def heading(text: str) -> widgets.HTML:
    """Return a heading."""
    return widgets.HTML(f"<h4>{html.escape(text)}</h4>")


def said(text: str, kind: str = "quiet") -> str:
    """Return a paragraph of plain text.

    Args:
        text: It; never HTML.
        kind: `quiet`, `note` (beware), `stop` (cannot be used) or `good`.
    """
    return f'<p class="prism-{kind}">{html.escape(text)}</p>'


def notice(text: str) -> str:
    """Return plain text that stands above a widget; it brings its look along."""
    look = "border-left:3px solid #DDAA33;padding-left:8px;margin:2px 0"
    return f'<p role="status" style="{look}">{html.escape(text)}</p>'


def padded(text: str) -> str:
    """Keep runs of spaces in the options of a list, where a browser would join them."""
    return text.replace(" ", "\u00a0")
