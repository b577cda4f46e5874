"""A rehearsal's numbers: seconds, memory, files and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.rehearsal.drive import Rehearsal
from benchmarks.rehearsal.facts import Fact
from prism_nb.execution.pipeline import STAGES
from prism_nb.headless import REPORT


def rows(found: Rehearsal, checked: list[Fact]) -> list[dict[str, Any]]:
    """Return one row for the whole, one per notebook and one per fact."""
    count, size = _disk(found.place.run)
    whole = {
        "case": f"{found.scale.classes} classes, IPC {found.scale.ipc}",
        "image_size": found.scale.image_size,
        "images": found.images,
        "seconds": {what: round(call.seconds, 1) for what, call in found.calls.items()},
        "peak_bytes": max(peak for call in found.calls.values() for peak in call.peaks.values()),
        "files": count,
        "bytes": size,
        "cache_bytes": _disk(found.place.cache)[1],
    }
    facts = [{"fact": f.statement, "holds": f.holds, "found": f.found} for f in checked]
    return [whole, *_notebooks(found), *facts]


def _notebooks(found: Rehearsal) -> list[dict[str, Any]]:
    """Return what each notebook took; that of the killed one is of its second call."""
    calls = [found.calls["killed"], found.calls["resumed"]]
    taken = {name: seconds for call in calls for name, seconds in call.stages.items()}
    rows = []
    for place, name in enumerate([*(stage.notebook for stage in STAGES.values()), REPORT]):
        peak = max(call.peaks.get(place, 0) for call in calls)
        rows.append({"notebook": name, "seconds": taken.get(name), "peak_bytes": peak})
    return rows


def _disk(folder: Path) -> tuple[int, int]:
    """Return number and bytes of a folder's files."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
