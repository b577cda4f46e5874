"""A figure whose points are images, as a page of its own that shows them on hover."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from torch import Tensor

from prism_nb.figures.sprites import sprites

_SIDE = 48  # of a thumbnail as it is sent, in pixels
_SHOWN = 144  # and as it is shown

# Plotly draws no images on hover, and its FigureWidget needs a further package and a kernel that
# answers. A page of its own needs neither; the slider makes its points reachable by keyboard.
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<script>{library}</script><style>
body {{ margin: 0; font: 13px/1.4 system-ui, sans-serif; background: #fff; color: #222;
 display: grid; grid-template-columns: minmax(0, 1fr) {shown}px; gap: 8px; }}
main {{ grid-area: 1 / 1; min-width: 0; }} aside {{ grid-area: 1 / 2; padding-top: 56px; }}
i {{ display: block; width: {shown}px; height: {shown}px; margin-bottom: 6px;
 background-color: #eee; image-rendering: pixelated; }}
i.on {{ background-image: url(data:image/{kind};base64,{sheet}); background-size: {size}; }}
i[hidden] {{ display: none; }}
input {{ width: 100%; margin: 0; box-sizing: border-box; }}</style></head>
<body><aside><i></i><i hidden></i><p id="told" aria-live="polite">Point at an
image, or use the slider.</p><input type="range" min="0" max="{last}" value="0"
aria-label="Image by number"></aside><main>{figure}</main></body></html>"""

_SCRIPT = """
const plot = document.getElementById('{plot_id}'), names = NAMES, columns = COLUMNS, side = SIDE;
const boxes = document.querySelectorAll('aside i'), told = document.getElementById('told');
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
plot.on('plotly_hover', event => show(event.points[0].customdata));
document.querySelector('input').addEventListener('input', event => {
  const wanted = Number(event.target.value);
  show([wanted]);
  plot.data.forEach((trace, curveNumber) => {
    if (trace.type !== 'scatter') return;
    const pointNumber = trace.customdata.findIndex(data => data[0] === wanted);
    if (pointNumber >= 0) Plotly.Fx.hover(plot, [{curveNumber, pointNumber}]);
  });
});
"""


def hover_page(figure: go.Figure, images: Tensor, names: Sequence[str], title: str) -> str:
    """Return a whole page that needs no network and no kernel.

    Args:
        figure: Its points' `customdata` are lists of places among the images, one or two of them.
        images: uint8 [n, 3, S, S].
        names: What each image is.
        title: The page's.
    """
    sheet = sprites(images, _SIDE)
    script = _SCRIPT.replace("NAMES", json.dumps(list(names)).replace("<", "\\u003c"))
    script = script.replace("COLUMNS", str(sheet.columns)).replace("SIDE", str(_SHOWN))
    return _PAGE.format(
        title=html.escape(title),
        library=get_plotlyjs(),
        figure=figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displaylogo": False, "responsive": True},
            post_script=script,
        ),
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
