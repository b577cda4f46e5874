"""The event log of a run: one JSON line per event, one file per stage."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prism_nb.core import fileio

_NEEDED = {
    "unit_start": {"unit"},
    "step": {"unit", "step", "steps"},
    "gradient": {"unit", "step", "shares"},
    "waiting": {"why"},
}
_YEAR_9999 = 253_402_300_799  # its last second, the latest that calendars can write


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


class _Event(BaseModel):
    """The types of the values that readers rely on; other values pass unchanged."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    event: str
    time: float = Field(0, ge=0, le=_YEAR_9999)
    unit: str = ""
    why: str = ""
    step: int = Field(0, ge=0)
    steps: int = Field(1, gt=0)
    losses: dict[str, float] = {}
    shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    seconds: float = Field(0, ge=0)
    units_made: int = Field(0, ge=0)
    peak_memory_bytes: int = Field(0, ge=0)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read one line of a log, or return None where a crash or an edit has damaged it."""
    try:
        value = json.loads(line)
        event = _Event.model_validate(value).event
    except (ValueError, RecursionError, ValidationError):
        return None
    return value if _NEEDED.get(event, set()) <= value.keys() else None
