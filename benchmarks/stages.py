"""Whole stages: their peak memory by number of images, and two Ray workers against one."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import ROOT, small_run
from benchmarks.image_tree import write_random_weights
from prism_nb.core.run import Run
from prism_nb.data.index import imagenet_wnids
from prism_nb.execution import pipeline
from prism_nb.execution.ray_backend import local_cluster
from tests.helpers.image_trees import make_tree

_NETWORKS = ("test_resnet", "test_byobnet")


# -- memory ----------------------------------------------------------------------------------

_FEW, _MANY = 16, 48  # images per class
_SIZE, _HELD_OUT, _REAL = 32, 2, 5
_INTERVAL = 0.05  # seconds between two samples of a process


def memory_rows() -> list[dict[str, Any]]:
    """Return each stage's peak memory at few and many images per class of 1,000 classes.

    Images and networks are as small as they can be, so that what grows with the number of images
    is not hidden by what does not. Each stage runs in a process of its own; pages of mapped files,
    which the system takes back when it needs them, are left out.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, classes = Path(name), list(imagenet_wnids())
        make_tree(folder / "tree", classes, train=_MANY + _REAL, val=_HELD_OUT, side=_SIZE)
        for network in _NETWORKS:
            path = folder / f"{network}.safetensors"
            write_random_weights(path, network, classes, _SIZE)
        few, many = (_run_stages(folder, ipc) for ipc in (_FEW, _MANY))
    rows = []
    for stage in pipeline.STAGES:
        per_image = (many[stage] - few[stage]) / ((_MANY - _FEW) * len(classes))
        peaks = {f"bytes_ipc{_FEW}": few[stage], f"bytes_ipc{_MANY}": many[stage]}
        rows.append({"stage": stage, **peaks, "bytes_per_image": round(per_image)})
    return rows


def _run_stages(folder: Path, ipc: int) -> dict[str, int]:
    """Run every stage of a new run, and return the peak memory of each in bytes."""
    first, second = _NETWORKS
    run = small_run(
        folder,
        f"ipc{ipc}",
        (f"{first}@{folder / first}.safetensors", f"{second}@{folder / second}.safetensors"),
        dataset="folder",
        data_dir=str(folder / "tree"),
        image_size=_SIZE,
        ipc=ipc,
        batch_size=100,
        recipe={"iterations": 1, "early_late_step": 0},
        preview_every=0,
        real_per_class=_REAL,
        label_epochs=1,
        student_seeds=1,
        evaluate_every=1,
        threads=2,
    )
    return {stage: _peak_memory(run, stage, folder / "cache") for stage in pipeline.STAGES}


def _peak_memory(run: Run, stage: str, cache: Path) -> int:
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, stage]
    child = psutil.Popen(
        [*command, "--runs-dir", str(run.path.parent)],
        cwd=ROOT,
        env={**os.environ, "PRISM_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while child.poll() is None:
        with suppress(psutil.NoSuchProcess):
            memory = child.memory_info()
            peak = max(peak, memory.rss - getattr(memory, "shared", 0))
        time.sleep(_INTERVAL)
    if child.returncode:
        raise SystemExit(f"stage {stage} of {run.path} failed")
    return peak


# -- workers ---------------------------------------------------------------------------------

_ROUNDS, _UNITS, _STEPS = 3, 4, 3600  # so many steps take about 30 seconds


def worker_rows() -> list[dict[str, Any]]:
    """Return seconds and speed by number of workers, medians over rounds.

    Both numbers of workers do the same units of one CPU thread each on the same cluster, in turn.
    Seconds are those from the first unit's begin to the last one's end: Ray's start and a worker's
    first import of torch come once per stage, however long it is.
    """
    taken: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, local_cluster(cpus=2, gpus=0) as address:
        for turn in range(_ROUNDS):
            for workers, seconds in taken.items():
                name = f"{workers}-{turn}"
                seconds.append(_synthesis_seconds(Path(folder), name, address, workers))
    medians = {workers: statistics.median(seconds) for workers, seconds in taken.items()}
    return [{"workers": w, "seconds": s, "speed": medians[1] / s} for w, s in medians.items()]


def _synthesis_seconds(folder: Path, name: str, address: str, workers: int) -> float:
    run = small_run(
        folder,
        name,
        _NETWORKS,
        ipc=_UNITS,
        batch_size=10,
        recipe={"iterations": _STEPS},
        backend="ray",
        ray_address=address,
        workers=workers,
    )
    pipeline.execute(run.with_settings(run.settings.replace(backend="process")), "squeeze")
    pipeline.execute(run, "synthesis")
    events = list(run.events.read("synthesis"))
    times = [event["time"] for event in events if event["event"] in {"unit_start", "unit_end"}]
    return max(times) - min(times)
