"""Where the words of a worker go while it is at a unit: a file per unit, in the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prism_nb.units import Unit, slug


def log_name(unit: Unit) -> str:
    """Return the path of a unit's log, relative to the run."""
    return f"logs/{unit.stage}/{slug(unit.name)}.log"


@contextmanager
def spoken_to(path: Path) -> Iterator[None]:
    """Append to a file what this process says, on both streams and from any library.

    The streams are turned where the system keeps them, so that what compiled code and child
    processes print is caught too. For a worker's only thread, since all threads share them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log, _turned(1, log.fileno()), _turned(2, log.fileno()):
        yield


@contextmanager
def _turned(stream: int, target: int) -> Iterator[None]:
    """Let a stream of this process lead to another file, and put it back afterwards."""
    _flush()
    before = os.dup(stream)
    os.dup2(target, stream)
    try:
        yield
    finally:
        _flush()
        os.dup2(before, stream)
        os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
