"""Loss curves that are drawn anew every second: an SVG of a few kB, replaced without a flicker.

plotly's figures redraw with a flash, and its FigureWidget leaves 5 MB in every saved notebook.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from prism_nb.figures.palette import colour_at, dash_of

Points = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 40
_TICKS = 5
_LEAST = 1e-12  # stands for what has no logarithm


def curves_svg(terms: Mapping[str, Points], *, steps: int) -> str:
    """Draw each term over the steps, on a logarithmic scale, as inline SVG.

    Args:
        terms: By name: (step, value); values that are not finite are left out.
        steps: End of the step axis, at least 1.
    """
    drawn = {name: _finite(points) for name, points in terms.items()}
    values = [value for points in drawn.values() for _, value in points]
    low, high = _decades(values)
    lines = [
        _line(points, place, steps, (low, high)) for place, points in enumerate(drawn.values())
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'aria-label="Losses by named term over the steps; the table has the latest values" '
        'style="max-width:100%;height:auto;font:12px system-ui,sans-serif" fill="currentColor">'
        f"{_grid(low, high, steps)}{''.join(lines)}</svg>"
    )


def terms_table(terms: Mapping[str, Points]) -> str:
    """Return the latest value of each term as an HTML table, which is the curves' legend too."""
    rows = "".join(
        f"<tr><td>{_sample(place)}</td><td>{html.escape(name)}</td>"
        f'<td style="text-align:right;padding-left:1em">{points[-1][1]:.4g}</td></tr>'
        for place, (name, points) in enumerate(terms.items())
        if points
    )
    head = "<tr><th></th><th style='text-align:left'>term, unweighted</th><th>latest</th></tr>"
    return f"<table>{head}{rows}</table>"


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(step, max(value, _LEAST)) for step, value in points if math.isfinite(value)]


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the value axis, as powers of ten; at least one decade apart."""
    if not values:
        return 0.0, 1.0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return float(low), float(max(high, low + 1))


def _x(step: float, steps: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, steps)


def _y(power: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - power) / (high - low)


def _line(points: Points, place: int, steps: int, ends: tuple[float, float]) -> str:
    path = " ".join(f"{_x(s, steps):.1f},{_y(math.log10(v), ends):.1f}" for s, v in points)
    return f'<polyline points="{path}" {_pen(place)}/>'


def _pen(place: int) -> str:
    dashes = dash_of(place).replace("solid", "none")
    return (
        f'fill="none" stroke="{colour_at(place)}" stroke-width="2" stroke-dasharray="{dashes}" '
        'stroke-linejoin="round"'
    )


def _sample(place: int) -> str:
    return (
        '<svg width="34" height="10" aria-hidden="true">'
        f'<line x1="1" y1="5" x2="33" y2="5" {_pen(place)}/></svg>'
    )


def _grid(low: float, high: float, steps: int) -> str:
    """Draw the axes: a line per power of ten, at most eight of them, and a few steps."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    every = -(-int(high - low) // 8)
    parts = []
    for power in range(int(low), int(high) + 1, every):
        y = _y(power, (low, high))
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity="0.15"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{_power(power)}</text>"
        )
    for step in dict.fromkeys(round(steps * i / _TICKS) for i in range(_TICKS + 1)):
        x = _x(step, steps)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>')
    turned = f"rotate(-90 12 {(_TOP + bottom) / 2})"
    parts.append(
        f'<text x="12" y="{(_TOP + bottom) / 2}" text-anchor="middle" transform="{turned}">'
        "loss (log scale)</text>"
    )
    return "".join(parts)


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 4 else f"1e{power}"
