"""What a unit's work is, and how it is named."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prism_nb.run import Run
from prism_nb.units import Unit

OnEvent = Callable[[dict[str, Any]], None]
Finish = Callable[[], None]
Work = Callable[[Run, Unit, OnEvent], Finish | None]


@dataclass(frozen=True)
class Outcome:
    """What a call did: units found done, units made now, and the seconds that took."""

    kept: int
    made: int
    seconds: float


@dataclass(frozen=True)
class Pieces:
    """How units that are too large for one worker are cut up, and shared among several.

    Attributes:
        cut: `module:function` of a run, a unit and a number; it returns at most so many units,
            which leave files that spare the unit itself most of its work.
        work: `module:function` of a `Work` that does one of those.
    """

    cut: str
    work: str


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; its module is imported only now."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
