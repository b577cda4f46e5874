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


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; its module is imported only now."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
