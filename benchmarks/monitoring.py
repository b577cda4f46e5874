"""What being watched costs the synthesis: the same unit silent, with events and pictures, followed.

A unit's loop runs in this process, in turn with and without; a monitor that follows it looks once a
second from a process of its own, as a notebook's does. Seconds are those of whole units, since
reports and pictures fall on some steps only. Processor time is this process's, all threads.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from benchmarks.common import ROOT, Case
from benchmarks.worker import build_teachers
from prism_nb.core.device import choose_device, disable_malloc_trim
from prism_nb.core.recipe import load_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of
from prism_nb.core.units import Unit
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.loop import recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, build_stat_matcher
from prism_nb.synthesis.preview import preview_writer
from prism_nb.synthesis.stage import _Progress
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_CASE = Case(
    "kit", ("test_resnet", "test_efficientnet", "test_byobnet"), size=32, count=50, steps=300
)
_ROUNDS = 5
_WAYS = ("silent", "events and pictures", "followed as well")
_MONITOR = """
import sys, time
from pathlib import Path
from prism_nb.widgets import RunMonitor
monitor = RunMonitor(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def monitoring_rows() -> list[dict[str, Any]]:
    """Return seconds of a unit in each way, and their ratio to the silent one."""
    disable_malloc_trim()
    teachers = build_teachers(_CASE, choose_device("auto"))
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in _WAYS}
    with tempfile.TemporaryDirectory() as folder:
        run = open_run_module.open_run(
            run_name="watched", preset="digits", runs_dir=folder, changes={"batch_size": 50}
        )
        unit = pipeline.stage_units(run, "synthesis")[0]
        _take(run, unit, teachers, stat_networks=False)  # warm
        for _ in range(_ROUNDS):
            for way in _WAYS:
                with _monitor(run) if way == _WAYS[2] else nullcontext():
                    taken[way].append(_take(run, unit, teachers, stat_networks=way != _WAYS[0]))
    rows = [_row(way, found) for way, found in taken.items()]
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
        row["cpu_ratio"] = row["cpu_seconds"] / rows[0]["cpu_seconds"]
        print(
            f"{row['loop']:<24}{row['seconds']:8.2f} s/unit {row['ratio']:6.3f} x"
            f"{row['cpu_seconds']:8.2f} s of the processor {row['cpu_ratio']:6.3f} x"
        )
    return rows


def _row(way: str, found: list[tuple[float, float]]) -> dict[str, Any]:
    wall, cpu = zip(*found, strict=True)
    seconds = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    return {"case": f"digits, {_CASE.count} images, {_CASE.steps} steps", "loop": way, **seconds}


@contextmanager
def _monitor(run: Run) -> Iterator[None]:
    """Follow the run from another process, once that has begun to look."""
    command = [sys.executable, "-c", _MONITOR, str(run.path)]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    assert child.stdout is not None  # noqa: S101
    child.stdout.readline()
    try:
        yield
    finally:
        child.communicate()


def _take(
    run: Run, unit: Unit, teachers: list[Teacher], *, stat_networks: bool
) -> tuple[float, float]:
    """Make a unit's images and return the seconds that took, by the clock and the processor."""
    begin, cpu = time.perf_counter(), time.process_time()
    if stat_networks:
        run.events.append("synthesis", event="unit_start", unit=unit.name)
        progress = _Progress(
            unit, _CASE.steps, lambda event: run.events.append("synthesis", **event)
        )
        draws = TeacherSchedule(_CASE.steps, (_CASE.networks,), _CASE.networks[:1])
        with run.locks.stage("synthesis"), preview_writer(run, unit, draws, _CASE.steps) as look:
            _recover(unit, teachers, progress, look)
    else:
        _recover(unit, teachers, lambda *_: None, None)
    return time.perf_counter() - begin, time.process_time() - cpu


def _recover(unit: Unit, teachers: list[Teacher], on_step: Any, look: Any) -> None:
    recipe = load_recipe("prism", {"iterations": _CASE.steps, "no_bn_policy": "zero"})
    matchers = {teacher.name: build_stat_matcher(teacher, recipe) for teacher in teachers}
    images = torch.randn(_CASE.count, 3, _CASE.size, _CASE.size)
    device = choose_device("auto")
    labels = torch.tensor([c for c, _ in batch_of(unit).members()], device=device)
    recover(
        images.to(device, memory_format=torch.channels_last),
        labels,
        gradient=MicroBatchedBackward(Objective(recipe, matchers)),
        draws=TeacherSchedule(_CASE.steps, (_CASE.networks,), _CASE.networks[:1]),
        recipe=recipe,
        bounds=(
            torch.full((3, 1, 1), -1.0, device=device),
            torch.full((3, 1, 1), 1.0, device=device),
        ),
        generator=torch.Generator().manual_seed(0),
        on_step=on_step,
        look=look,
    )
