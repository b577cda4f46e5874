"""A figure whose points are images, as a page of its own that shows them on hover."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from functools import lru_cache

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from torch import Tensor

from prism_nb.figures.html import CONFIG
from prism_nb.figures.sprites import sprites
from prism_nb.figures.theme import PAPER, RULES

_SIDE = 48  # of a thumbnail as it is sent, in pixels
_SHOWN = 144  # and as it is shown

# Plotly draws no images on hover, and its FigureWidget needs a further package and a kernel that
# answers. A page of its own needs neither; the slider makes its points reachable by keyboard.
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>{theme}
body {{ margin: 0; font: 13px/1.4 system-ui, sans-serif;
 display: grid; grid-template-columns: minmax(0, 1fr) {shown}px; gap: 8px; }}
main {{ grid-area: 1 / 1; min-width: 0; }} aside {{ grid-area: 1 / 2; padding-top: 56px; }}
i {{ display: block; width: {shown}px; height: {shown}px; margin-bottom: 6px;
 background-color: rgba(128,128,128,.2); image-rendering: pixelated; }}
i.on {{ background-image: url(data:image/{kind};base64,{sheet}); background-size: {size}; }}
i[hidden] {{ display: none; }}
input {{ width: 100%; margin: 0; box-sizing: border-box; }}</style></head>
<body><aside><i></i><i hidden></i><p id="told" aria-live="polite">Point at an
image, or use the slider.</p><input type="range" min="0" max="{last}" value="0"
aria-label="Image by number"></aside><main><div id="plot"></div></main>
<script type="text/plain" id="library">{library}</script><script>{script}</script></body></html>"""

_SCRIPT = """
const {figure, config, names, columns, side} = DATA;
const plot = document.getElementById('plot'), told = document.getElementById('told');
const boxes = document.querySelectorAll('aside i');
function show(places) {
  boxes.forEach((box, k) => {
    box.hidden = k > 0 && k >= places.length;
    if (k >= places.length) return;
    const row = Math.floor(places[k] / columns), column = places[k] % columns;
    box.className = 'on';
    box.style.backgroundPosition = `-${column * side}px -${row * side}px`;
  });
  told.textContent = places.map(place => names[place]).join(' — ');
}
document.querySelector('input').addEventListener('input', event => {
  const wanted = Number(event.target.value);
  show([wanted]);
  plot.data.forEach((trace, curveNumber) => {
    if (trace.type !== 'scatter') return;
    const pointNumber = trace.customdata.findIndex(data => data[0] === wanted);
    if (pointNumber >= 0) Plotly.Fx.hover(plot, [{curveNumber, pointNumber}]);
  });
});
function followLab() {  // within JupyterLab, its theme rules, and may change
  const lab = parent.document.body, mine = document.documentElement;
  const theirs = {paper: 'layout-color0', ink: 'ui-font-color1', soft: 'ui-font-color2'};
  for (const [name, wanted] of Object.entries(theirs)) {
    const colour = getComputedStyle(lab).getPropertyValue(`--jp-${wanted}`);
    if (colour) mine.style.setProperty(`--${name}`, colour);
  }
  const light = lab.dataset.jpThemeLight;
  if (light) mine.style.colorScheme = light === 'true' ? 'light' : 'dark';
}
if (parent !== window) {
  followLab();
  new MutationObserver(followLab).observe(parent.document.body, {attributes: true});
}
(async () => {
  const packed = atob(document.getElementById('library').textContent);
  const bytes = new Blob([Uint8Array.from(packed, letter => letter.charCodeAt(0))]);
  const library = document.createElement('script');
  const unpacked = bytes.stream().pipeThrough(new DecompressionStream('gzip'));
  library.text = await new Response(unpacked).text();
  document.head.append(library);
  await Plotly.newPlot(plot, figure.data, figure.layout, config);
  plot.on('plotly_hover', event => show(event.points[0].customdata));
})();
"""


def hover_page(figure: go.Figure, images: Tensor, names: Sequence[str], title: str) -> str:
    """Return a whole page of about 2 MB that needs no network and no kernel.

    Args:
        figure: Its points' `customdata` are lists of places among the images, one or two of them.
        images: uint8 [n, 3, S, S].
        names: What each image is.
        title: The page's.
    """
    sheet = sprites(images, _SIDE)
    data = {
        "figure": json.loads(figure.to_json()),
        "config": CONFIG,
        "names": list(names),
        "columns": sheet.columns,
        "side": _SHOWN,
    }
    return _PAGE.format(
        title=html.escape(title),
        theme=PAPER + RULES,
        library=_library(),
        script=_SCRIPT.replace("DATA", _inert(json.dumps(data))),
        shown=_SHOWN,
        kind=sheet.kind,
        sheet=base64.b64encode(sheet.picture).decode(),
        size=f"{sheet.columns * _SHOWN}px {sheet.rows * _SHOWN}px",
        last=len(names) - 1,
    )


def framed(page: str, *, title: str, height: int) -> str:
    """Return a page as a frame within another."""
    return (
        f'<iframe title="{html.escape(title, quote=True)}" style="width:100%;height:{height}px;'
        f'border:0" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


@lru_cache(maxsize=1)
def _library() -> str:
    """Return plotly.js as text of 2 MB, which the page unpacks, where it has 5 MB by itself.

    The page cannot take it from elsewhere: the lab's own copy is out of reach, and the run may lie
    outside the folder that the lab serves.
    """
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _inert(text: str) -> str:
    """Return JSON that cannot end the script that it stands in."""
    return text.replace("<", "\\u003c")
