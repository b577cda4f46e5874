"""Runs, subprocesses and timing of the benchmarks, and the table and file of their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prism_nb.core import fileio
from prism_nb.core.manifest import machine
from prism_nb.core.run import Run
from prism_nb.execution import open_run

ROOT = Path(__file__).parents[1]


def report(name: str, rows: list[dict[str, Any]], *, save: bool = True) -> None:
    """Print a benchmark's rows as a table, and write them with the machine and the date."""
    print(f"\n{name}")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), flush=True)
    record = {
        "machine": machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    if save:
        fileio.write_json(ROOT / "benchmarks" / "results" / f"{name}.json", record)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_a_process(module: str, name: str, **environment: str) -> Any:
    """Run `python -m MODULE NAME` and return the JSON value of its last line of output."""
    done = subprocess.run(  # noqa: S603 (our own module)
        [sys.executable, "-m", module, name],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{module} {name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes, on the GPU too where there is one."""
    begin = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def small_run(folder: Path, name: str, networks: tuple[str, str], **changes: Any) -> Run:
    """Begin a run of PRISM with two teachers on the digits, if the changes name no other data."""
    settings: dict[str, Any] = {
        "teachers": networks,
        "primary": networks[0],
        "holdout_networks": [],
        "feature_networks": networks[1:],
        "squeeze_epochs": 1,
        "methods": ["prism"],
        "students": ["test_resnet"],
        "threads": 1,
        **changes,
    }
    return open_run.open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes=settings
    )
