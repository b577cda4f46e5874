"""A gallery's page as HTML: a panel per method, each one picture that the page cuts up."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

import pandas as pd
import torch

from prism_nb.class_names import class_label
from prism_nb.data.base import ClassInfo
from prism_nb.figures.gallery_view import ORDERS, GalleryView, Panel
from prism_nb.figures.palette import looks_of
from prism_nb.figures.sprites import Sprites, sprites

_TOLD = 230  # pixels; how wide the words on an image are at most
_STYLE = """<style>
.prism-gallery { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.prism-panel { flex: 0 0 max(180px, %(tile)dpx, %(width)s); }
.prism-panel h4 { margin: 0 0 4px; padding-left: 8px; font-size: 14px; line-height: 1.3; }
.prism-panel p { margin: 0 0 6px; font-size: 12px; line-height: 1.3; opacity: .8; }
.prism-tiles { display: flex; flex-wrap: wrap; gap: 5px; }
.prism-tiles figure { margin: 0; line-height: 1.1; position: relative; }
.prism-tiles figure:focus-visible { outline: 2px solid #4477AA; outline-offset: 1px; }
.prism-tiles figure:hover::after, .prism-tiles figure:focus::after { content: attr(aria-label);
  position: absolute; z-index: 5; bottom: 100%%; left: 0; width: max-content; max-width: %(told)dpx;
  padding: 4px 7px; font-size: 12px; line-height: 1.35; white-space: pre-wrap;
  pointer-events: none; color: var(--jp-ui-font-color1, #222);
  background: var(--jp-layout-color1, #fff); border: 1px solid var(--jp-border-color1, #bbb); }
.prism-panel:last-child:not(:first-child) figure::after { left: auto !important; right: 0; }
.prism-panel:only-child .prism-tiles { padding-right: %(told)dpx; }
.prism-tiles figure div { display: flex; gap: 1px; }
.prism-tiles i { width: %(side)dpx; height: %(side)dpx; image-rendering: pixelated; }
.prism-tiles figcaption { font-size: 10px; text-align: center; white-space: pre; opacity: .85; }
</style>"""


def gallery_html(panels: Sequence[Panel], view: GalleryView, classes: Sequence[ClassInfo]) -> str:
    """Return a page of a gallery.

    Every image has a caption, and above it, while the pointer is over it or the keyboard at it,
    all that is known of it. Images are neither smoothed nor recoloured; those larger than they are
    shown are averaged.

    Args:
        panels: The result of `gallery_view.panels`.
        view: What they show.
        classes: The dataset's.
    """
    if not panels:
        return "<p>Choose at least one method.</p>"
    beside = min(4, len(panels))
    width = f"calc((100% - {18 * (beside - 1)}px) / {beside} - 1px)"
    tile = view.side * max(1 + (panel.before is not None) for panel in panels) + 1
    style = _STYLE % {"width": width, "side": view.side, "tile": tile, "told": _TOLD}
    looks = looks_of(panel.method for panel in panels)
    parts = [
        _panel(panel, view, classes, place, looks[panel.method].colour)
        for place, panel in enumerate(panels)
    ]
    return f'{style}<div class="prism-gallery">{"".join(parts)}</div>'


def _panel(
    panel: Panel, view: GalleryView, classes: Sequence[ClassInfo], place: int, colour: str
) -> str:
    head = (
        f'<h4 style="border-left: 6px solid {colour}">{html.escape(panel.title)} '
        f'<span style="font-weight: normal">· {_count(panel)}</span></h4>'
    )
    words = f"<p>{html.escape(panel.words)}</p>" if panel.words else ""
    tiles = _tiles(panel, view, classes, place) if len(panel.rows) else ""
    return f'<section class="prism-panel">{head}{words}{tiles}</section>'


def _count(panel: Panel) -> str:
    shown, plural = len(panel.rows), "s" * (panel.count != 1)
    part = f"{shown} of " if shown < panel.count else ""
    beside = ", initial ones left of them" if panel.before is not None else ""
    return f"{part}{panel.count} image{plural}{beside}"


def _tiles(panel: Panel, view: GalleryView, classes: Sequence[ClassInfo], place: int) -> str:
    both = [panel.images] if panel.before is None else [panel.before, panel.images]
    sheet, count = sprites(torch.cat(both), view.side), len(panel.rows)
    name = f"prism-sheet-{place}"
    tiles = []
    for i, row in enumerate(panel.rows.to_dict("records")):
        told = html.escape(told_of(row, classes[row["class"]]), quote=True)
        places = [_offset(sheet, i + k * count, view.side) for k in range(len(both))]
        cut = "".join(f'<i class="{name}" style="background-position:{at}"></i>' for at in places)
        caption = html.escape(caption_of(row, view))
        tiles.append(
            f'<figure role="img" tabindex="0" aria-label="{told}"><div>{cut}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'{_sheet_style(sheet, name, view.side)}<div class="prism-tiles">{"".join(tiles)}</div>'


def _sheet_style(sheet: Sprites, name: str, side: int) -> str:
    data = base64.b64encode(sheet.picture).decode()
    size = f"{sheet.columns * side}px {sheet.rows * side}px"
    return (
        f"<style>.{name} {{ background-size: {size}; "
        f"background-image: url(data:image/{sheet.kind};base64,{data}) }}</style>"
    )


def _offset(sheet: Sprites, index: int, side: int) -> str:
    row, column = sheet.place(index)
    return f"-{column * side}px -{row * side}px"


def caption_of(row: dict[str, object], view: GalleryView) -> str:
    """Return the words below an image: class and slot, and the value that it is sorted by."""
    order = ORDERS[view.order]
    value = row.get(order.columns[0]) if order.columns else None
    place = f"slot {row['slot']}" if len(view.classes) == 1 else f"{row['class']} · {row['slot']}"
    if isinstance(value, float) and not math.isnan(value):
        return f"{place}\n{order.caption.format(value)}"
    return place


def told_of(row: dict[str, object], info: ClassInfo) -> str:
    """Return all that is known of an image, in lines."""
    lines = [f"class {class_label(info)}, slot {row['slot']}"]
    for name, form in _LINES.items():
        value = row.get(name)
        if value is not None and value != "" and not pd.isna(value):
            lines.append(form.format(value))
    return "\n".join(lines)


_LINES = {
    "unit": "unit {}",
    "teachers": "BN teachers of the unit: {}",
    "logit loss": "last logit loss of the unit: {:.4g} nats",
    "BN loss": "last BN loss of the unit, mean over networks: {:.4g}",
    "own loss": "cross-entropy of the primary on this image: {:.4g} nats",
    "agree": "pairs of teachers that agree: {:.0f} %",
    "apart": "divergence of the teachers: {:.3f} nats",
    "distance": "distance to the nearest training image: {:.4f} (0 to 2)",
}
