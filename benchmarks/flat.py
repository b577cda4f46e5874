"""Whether a process stays as it is over hundreds of units: memory, open files, threads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psutil

from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline

_METHODS, _SLOTS, _EVERY = ["prism", "prism_intra", "prism_all", "sre2l", "cda"], 100, 50
_SETTINGS: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": _METHODS,  # a unit of each for every slot: 500
    "ipc": _SLOTS,
    "batch_size": 10,
    "recipe": {"iterations": 2, "early_late_step": 0, "init": "noise"},
    "threads": 1,
    "progress": False,
}


def flat_rows() -> list[dict[str, Any]]:
    """Return what the process holds after every fifty units of the synthesis."""
    rows: list[dict[str, Any]] = []
    done = 0

    def count(event: dict[str, Any]) -> None:
        nonlocal done
        if event["event"] != "end":
            return
        done += 1
        if done % _EVERY == 0:
            rows.append({"units": done, **_held()})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        run = open_run_module.open_run(
            run_name="flat", preset="digits_quick", runs_dir=Path(folder), changes=_SETTINGS
        )
        pipeline.execute(run, "squeeze")
        pipeline.execute(run, "synthesis", count)
    return rows


def _held() -> dict[str, float]:
    me = psutil.Process()
    return {
        "megabytes": round(me.memory_info().rss / 1e6, 1),
        "files": me.num_fds(),
        "threads": me.num_threads(),
    }
