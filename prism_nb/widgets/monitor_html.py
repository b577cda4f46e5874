"""What the run monitor shows, as pieces of HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from prism_nb.figures.live import curves_svg, terms_table
from prism_nb.monitor.pictures import Film
from prism_nb.monitor.state import Curve, RunState
from prism_nb.tables import duration

_TILE = 72  # pixels on the screen


def words_html(words: str, notes: Sequence[str] = ()) -> str:
    """Return the state in words; a screen reader is told when they change."""
    lines = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    return f'<div role="status"><b>{html.escape(words)}</b>{lines}</div>'


def numbers_html(state: RunState) -> str:
    """Return how far the run is: a bar, and the numbers."""
    within = state.step / state.steps if state.steps else 0.0
    share = min(1.0, (state.done + within) / max(1, state.units))
    bar = f'<progress value="{share:.4f}" max="1" aria-label="synthesis" style="width:24em">'
    facts = [f"{share:.0%}", f"{state.done} of {state.units} units done, {state.missing} missing"]
    if state.is_running:
        at = f", step {state.step} of {state.steps}" if state.steps else ""
        facts.append(f"at work: {state.at_work}{at}" if state.at_work else "preparing")
    if state.missing:
        left = state.seconds_left
        facts.append(f"time left: {'not known yet' if left is None else duration(left)}")
    if state.is_running and state.images_per_minute is not None:
        facts.append(f"{state.images_per_minute:.3g} images per minute")
    line = " · ".join(f'<span style="white-space:nowrap">{html.escape(f)}</span>' for f in facts)
    return f"{bar}</progress><div>{line}</div>"


def curve_html(curve: Curve | None, picked: str = "") -> str:
    """Return the losses of a unit, drawn and as numbers.

    Args:
        curve: They; None where there are none.
        picked: The unit that was asked for; empty: any.
    """
    if curve is None and picked:
        return f"<p>No losses of {html.escape(picked)} in the event log.</p>"
    if curve is None:
        return "<p>No losses yet: they come with the first steps of an optimised unit.</p>"
    return (
        f"<b>Losses of {html.escape(curve.unit)}</b>"
        '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:center">'
        f"<div>{curves_svg(curve.terms, steps=curve.steps)}</div>{terms_table(curve.terms)}</div>"
    )


def film_html(film: Film, step: int, names: Sequence[str]) -> str:
    """Return one picture of a film, image by image, and below it which networks steer all of them.

    Args:
        film: The film.
        step: A step of which there is a picture.
        names: What each class is called, in order.
    """
    teachers = ", ".join(film.teachers_at(step))
    tiles = "".join(
        _tile(png, _called(names, class_index), slot)
        for png, (class_index, slot) in zip(film.tiles(step), film.images, strict=False)
    )
    begin = " (as it begins)" if step == film.taken[0] else ""
    return (
        f"<div><b>{html.escape(film.unit)}</b>, step {step} of {film.steps}{begin}; "
        f"BN teachers: {html.escape(teachers)}</div>"
        f'<div style="display:flex;flex-wrap:wrap;gap:6px;max-width:{10 * (_TILE + 6)}px">'
        f"{tiles or 'This picture is gone.'}</div>{_steered(film, step)}"
    )


def _steered(film: Film, step: int) -> str:
    """Say which networks a picture's images were drawn by: a unit's images share them."""
    teachers, speakers = ", ".join(film.teachers_at(step)), ", ".join(film.speakers_at(step))
    words = f"Networks drawn for these images: BN statistics of {teachers}; logits of {speakers}."
    return f'<div class="prism-drawn">{html.escape(words)}</div>'


def _called(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def _tile(png: bytes, name: str, slot: int) -> str:
    what = html.escape(f"{name}, image {slot}")
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure style="margin:0;width:{_TILE}px" title="{what}">'
        f'<img alt="{what}" src="{source}" width="{_TILE}" '
        f'height="{_TILE}" style="image-rendering:pixelated;display:block">'
        '<figcaption style="text-align:center;line-height:1.3;overflow-wrap:anywhere">'
        f"{html.escape(name)}</figcaption></figure>"
    )
