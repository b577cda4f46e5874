"""The event log of a run: one JSON line per event, one file per stage."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from prism_nb.core import fileio

_TAIL_BYTES = 2**17  # more than several events


class EventLog:
    """The events of a run's stages, in `<stage>.jsonl` of its `events` folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, stage: str, **values: Any) -> None:
        """Append an event of a stage, with the time."""
        line = json.dumps({"time": round(time.time(), 3), **values})
        fileio.append_line(self._path(stage), line)

    def read(self, stage: str) -> list[dict[str, Any]]:
        """Return a stage's events in order, without damaged lines and an unfinished last one."""
        return self.read_after(stage, 0)[0]

    def last(self, stage: str) -> dict[str, Any]:
        """Return a stage's last event; empty where there is none."""
        path = self._path(stage)
        end = path.stat().st_size if path.is_file() else 0
        events = self.read_after(stage, max(0, end - _TAIL_BYTES))[0]
        return events[-1] if events else {}

    def read_after(self, stage: str, position: int) -> tuple[list[dict[str, Any]], int]:
        """Return the complete events after a byte position of a stage's log, and its end."""
        path = self._path(stage)
        if not path.is_file():
            return [], position
        with path.open("rb") as file:
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        events = [_parse(line) for line in whole.splitlines()]
        return [event for event in events if event is not None], position + len(whole)

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage}.jsonl"


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read one line of a log, or return None where a crash or an edit has damaged it."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "event" in value else None
