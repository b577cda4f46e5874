"""What the benchmarks share: a loop in a process of its own, rounds of them, and the record."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from prism_nb.core.manifest import machine

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """Steps of one loop on one problem.

    Attributes:
        loop: `published`, `bare` or `kit`.
        networks: The networks of the draw; the first is the primary.
        size: Side of the images, in pixels.
        count: Images of the batch.
        steps: Steps, of which the first two are not in the median.
        compiled: Whether networks are compiled; of the kit.
        precision: `fp32` or `bf16`; of the kit.
        micro_batch_size: Images per forward pass of the kit; 0: the whole batch.
    """

    loop: str
    networks: tuple[str, ...]
    size: int
    count: int
    steps: int
    compiled: bool = False
    precision: str = "fp32"
    micro_batch_size: int = 0


def measure(cases: Mapping[str, Case], *, rounds: int) -> dict[str, dict[str, float]]:
    """Run cases in turn, each time in a fresh process, so that disturbances hit all alike.

    Returns:
        By the case's name: `seconds` per step (median over the steps of all rounds), `images` per
        second, `first` (the first round's first step, in seconds) and `memory` (peak, in bytes).
    """
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as compiled:  # so that the first round compiles anew
        for _ in range(rounds):
            for name, case in cases.items():
                taken[name].append(_in_a_process(case, compiled))
    return {name: _summary(cases[name], found) for name, found in taken.items()}


def _summary(case: Case, found: Sequence[dict[str, Any]]) -> dict[str, float]:
    seconds = statistics.median(second for one in found for second in one["seconds"])
    return {
        "seconds": seconds,
        "images": case.count / seconds,
        "first": found[0]["first"],
        "memory": max(one["memory"] for one in found),
    }


def _in_a_process(case: Case, compiled: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(case))]
    done = subprocess.run(  # noqa: S603 (our own module)
        command,
        cwd=ROOT,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": compiled},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def private_bytes(processes: Sequence[psutil.Process]) -> int:
    """Return the memory of processes without the pages of mapped files, in bytes."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            memory = process.memory_info()
            total += memory.rss - getattr(memory, "shared", 0)
    return total


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Save a benchmark's rows with the machine and the date."""
    record = {
        "machine": machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
