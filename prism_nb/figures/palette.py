"""Colours: one per method wherever it is shown, others for what is no method, and further cues.

All are told apart in normal vision, and with a red or green deficiency (a difference in CIELAB of
12 and of 7 at least); all stand out from light and from dark paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

_OWNED = {
    "prism": "#4477AA",
    "prism_intra": "#55BBEE",
    "prism_all": "#444499",
    "prism_wide": "#7777EE",
    "prism_reference": "#6677CC",
    "sre2l": "#EE6677",
    "cda": "#994400",
    "gvbsm": "#AA3377",
    "delt": "#DDAA33",
    "edc": "#884444",
    "cvdd": "#774488",
    "rded": "#00BBBB",
    "random_real": "#228833",
    "real": "#777777",
}
_SPARE = (
    *("#AABB66", "#FF8855", "#AA88CC", "#00CC99", "#888800", "#228899", "#774422"),
    *("#FF88BB", "#66AAFF", "#66AA99", "#DD5544", "#883355", "#339966"),
)
_OTHER = (
    *("#0066CC", "#EE9988", "#886622", "#336677"),
    *("#BB5555", "#88BBDD", "#119999", "#BB9966"),
)
_DASHES = ("solid", "8px,4px", "2px,3px", "8px,3px,2px,3px", "18px,4px")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
_PATTERNS = ("", "/", "\\", "x", "-", "|", "+", ".")


@dataclass(frozen=True)
class Look:
    """How a method looks.

    Attributes:
        colour: Hex.
        cue: 0; where colours have run out, the number of methods before it of the same colour.
    """

    colour: str
    cue: int = 0

    @property
    def fill(self) -> dict[str, object]:
        """The `marker` of its bars: its colour, hatched where that is not its own alone."""
        return {"color": self.colour, "pattern": {"shape": pattern_of(self.cue)}}


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    """Return how each of some methods looks that are shown together; no two look alike.

    Recipes of the kit have colours of their own. Any other method has the spare colour that its
    name falls on, or the next free one, names in alphabetical order: so the order of the methods
    is of no account, and a part of them nearly always looks as the whole does.

    Args:
        methods: Their names, repetitions allowed.
    """
    names = sorted(set(methods))
    looks = {name: Look(_OWNED[name]) for name in names if name in _OWNED}
    free: list[str] = []
    rounds: Counter[str] = Counter()
    for name in names:
        if name not in looks:
            free = free or list(_SPARE)
            colour = _next_free(free, crc32(name.encode()) % len(_SPARE))
            free.remove(colour)
            looks[name] = Look(colour, rounds[colour])
            rounds[colour] += 1
    return looks


def colour_of(method: str) -> str:
    """Return the colour of a method by itself; of those shown together, see `looks_of`."""
    return looks_of([method])[method].colour


def colour_at(place: int) -> str:
    """Return the colour of what is no method, such as a network, by its place in a list."""
    return _OTHER[place % len(_OTHER)]


def dash_of(place: int) -> str:
    """Return a line's dashes by its place in a list, as plotly and SVG read them; all differ."""
    if place < len(_DASHES):
        return _DASHES[place]
    return "10px,3px" + ",2px,3px" * (place - len(_DASHES) + 2)


def symbol_of(place: int) -> str:
    """Return a mark by its place in a list."""
    return _SYMBOLS[place % len(_SYMBOLS)]


def pattern_of(place: int) -> str:
    """Return the hatching of an area by its place in a list; the first has none."""
    return _PATTERNS[place % len(_PATTERNS)]


def faded(colour: str, opacity: float) -> str:
    """Return a hex colour with an opacity in [0, 1]."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _next_free(free: list[str], wanted: int) -> str:
    turned = (*_SPARE[wanted:], *_SPARE[:wanted])
    return next(colour for colour in turned if colour in free)
