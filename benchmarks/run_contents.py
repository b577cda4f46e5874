"""Results of a run, for comparison with another run of equal settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import pipeline


def finished_units(run: Run) -> Iterator[Unit]:
    """Yield the units of all stages that are done and undamaged."""
    for stage in pipeline.STAGES:
        for unit in pipeline.stage_units(run, stage):
            if run.units.is_done(unit):
                yield unit


def contents(run: Run) -> dict[str, Any]:
    """Return every finished unit's record and files, without the seconds.

    Returns:
        A record by stage and unit; by path, the values of a JSON file or another file's hash.
    """
    found: dict[str, Any] = {}
    for unit in finished_units(run):
        found[f"{unit.stage} {unit.name}"] = run.units.record(unit)
        for path in run.units.files(unit):
            file = run.file(path)
            is_json = file.suffix == ".json"
            found[path] = json.loads(file.read_text()) if is_json else fileio.sha256(file)
    for each in found.values():
        if isinstance(each, dict):
            each.pop("seconds", None)
    return found
