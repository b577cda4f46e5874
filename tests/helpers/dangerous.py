"""A pickled object that acts when it is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Dangerous:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)
