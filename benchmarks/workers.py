"""Two Ray workers against one, with units of one CPU thread each, and the engine's overhead.

Both do the same units on the same cluster, in turn, so that a machine's moods hit both alike.
What counts is the time from the first unit's begin to the last one's end: Ray's start and a
worker's first load of torch come once per stage, however long it is.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.ray_backend import local_cluster

_ROUNDS, _UNITS, _STEPS = 3, 4, 3600  # so many steps take about 30 seconds
_SETTINGS: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["prism"],
    "ipc": _UNITS,
    "batch_size": 10,
    "recipe": {"iterations": _STEPS},
    "threads": 1,
    "backend": "ray",
}


def worker_rows() -> list[dict[str, Any]]:
    """Return seconds, speed and overhead by number of workers, medians over rounds."""
    taken: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, local_cluster(cpus=2, gpus=0) as address:
        for turn in range(_ROUNDS):
            for workers, spans in taken.items():
                spans.append(_stage(Path(folder), f"{workers}-{turn}", address, workers))
    reference = statistics.median(span for span, _ in taken[1])
    return [_row(workers, spans, reference) for workers, spans in taken.items()]


def _stage(folder: Path, name: str, address: str, workers: int) -> tuple[float, float]:
    """Do a stage and return its span and the work in it, in seconds; the latter over all units."""
    changes = {**_SETTINGS, "ray_address": address, "workers": workers}
    run = open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes=changes
    )
    pipeline.execute(run.with_settings(run.settings.replace(backend="process")), "squeeze")
    pipeline.execute(run, "synthesis")
    events = list(run.events.read("synthesis"))
    times = [event["time"] for event in events if event["event"] in {"unit_start", "unit_end"}]
    units = pipeline.stage_units(run, "synthesis")
    return max(times) - min(times), sum(run.units.record(unit)["seconds"] for unit in units)


def _row(workers: int, spans: list[tuple[float, float]], reference: float) -> dict[str, Any]:
    seconds = statistics.median(span for span, _ in spans)
    work = statistics.median(work for _, work in spans)
    overhead = statistics.median(workers * span / work - 1 for span, work in spans)
    print(
        f"{workers} workers{seconds:10.1f} s for {_UNITS} units of {work / _UNITS:.1f} s"
        f"{reference / seconds:8.2f} x{overhead:8.1%} overhead",
        flush=True,
    )
    return {
        "workers": workers,
        "seconds": seconds,
        "unit_seconds": work / _UNITS,
        "speed": reference / seconds,
        "overhead": overhead,
    }
