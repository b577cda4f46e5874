"""What a run has made, so that two of equal settings can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import pipeline


def finished_units(run: Run) -> Iterator[Unit]:
    """Yield the units of all stages that are done and whole."""
    for stage in pipeline.STAGES:
        for unit in pipeline.stage_units(run, stage):
            if run.units.is_done(unit):
                yield unit


def contents(run: Run) -> dict[str, Any]:
    """Return what every finished unit has recorded and made, but for the seconds that it took.

    Returns:
        A record by stage and unit, and by path what is in a JSON file or the hash of another one.
    """
    found: dict[str, Any] = {}
    for unit in finished_units(run):
        found[f"{unit.stage} {unit.name}"] = run.units.record(unit)
        found |= {path: _content(run.file(path)) for path in run.units.files(unit)}
    for each in found.values():
        if isinstance(each, dict):
            each.pop("seconds", None)
    return found


def _content(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else fileio.sha256(path)
