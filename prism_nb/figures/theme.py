"""Light and dark: the colours of pages, and figures that are drawn in the page's own ink."""

from __future__ import annotations

# Of a page that stands alone; within JupyterLab, the lab's own colours rule.
PAPER = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #23282e; --soft: #68717b; --line: #d9dde1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e4e7ea; --soft: #98a2ac; --line: #343b43; } }
body { background: var(--paper); color: var(--ink); }
"""

# plotly writes its colours into every element. These rules come before them, so that titles,
# numbers, spreads and tools follow the text around the figure; values on bars, squares and in
# hover labels keep the colour that suits what they stand on.
RULES = """
.js-plotly-plot .infolayer text, .js-plotly-plot .cartesianlayer [class$="tick"] text,
.js-plotly-plot .textpoint text, .js-plotly-plot .bartext-outside
  { fill: currentColor !important; }
.js-plotly-plot .xerror, .js-plotly-plot .yerror { stroke: currentColor !important; }
.js-plotly-plot .modebar-btn .icon path { fill: currentColor !important; fill-opacity: .55; }
.js-plotly-plot .modebar-btn:hover .icon path, .js-plotly-plot .modebar-btn.active .icon path
  { fill-opacity: 1; }
.js-plotly-plot .modebar-btn.active { outline: 1px solid currentColor; border-radius: 3px; }
"""
