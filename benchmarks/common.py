"""What the benchmarks share: networks, the kit's loop beside others, and the record."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_nb.provenance import machine
from prism_nb.recipes import load_recipe
from prism_nb.synthesis.gradient import Gradient
from prism_nb.synthesis.objective import Objective
from prism_nb.synthesis.recover import recover
from prism_nb.synthesis.watch import watch
from prism_nb.teachers.networks import build_network
from prism_nb.teachers.selection import Draws
from prism_nb.teachers.teacher import PixelSpace, Teacher

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2  # steps that are not counted
BN_WEIGHT, FIRST_LAYER, LR = 0.01, 10.0, 0.05

Loop = Callable[[list[Teacher], Tensor, Tensor], Iterator[None]]


def build_teachers(names: tuple[str, ...], size: int) -> list[Teacher]:
    """Build frozen networks with random weights, which cost what trained ones cost."""
    space = PixelSpace((0.5,) * 3, (0.5,) * 3, size)
    teachers = []
    for name in names:
        network = build_network(name, classes=10, image_size=size)
        teacher = Teacher(name, network, own=space, canonical=space)
        teachers.append(teacher.to(memory_format=torch.channels_last))
    return teachers


def measure(
    names: tuple[str, ...],
    loops: Mapping[str, Loop],
    *,
    size: int,
    count: int,
    steps: int,
    parts: int = 0,
) -> dict[str, float]:
    """Return median milliseconds per step of the kit's loop ("kit") and of others beside it.

    After each step of the kit's own `recover` every other loop takes one step, so that the
    machine's moods hit all of them alike. Each has networks of its own.

    Args:
        names: The networks; the first is the primary.
        loops: Others to measure, by name.
        size: Side of the images, in pixels.
        count: Images of the batch.
        steps: Steps of each loop.
        parts: The kit's micro-batch; 0: the whole batch.
    """
    teachers = build_teachers(names, size)
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 10
    running = {
        name: loop(copy.deepcopy(teachers), images.clone(), labels) for name, loop in loops.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in ("kit", *loops)}
    mark = time.perf_counter()

    def on_step(*_: object) -> None:
        nonlocal mark
        taken["kit"].append(1e3 * (time.perf_counter() - mark))
        for name, loop in running.items():
            begin = time.perf_counter()
            next(loop)
            taken[name].append(1e3 * (time.perf_counter() - begin))
        mark = time.perf_counter()

    recipe = load_recipe("prism", {"iterations": steps, "early_late_step": 0, "bn_less": "count"})
    objective = Objective(recipe, {teacher.name: watch(teacher, recipe) for teacher in teachers})
    recover(
        images,
        labels,
        gradient=Gradient(objective, parts),
        draws=Draws(steps, (names,), names[:1]),
        recipe=recipe,
        bounds=(torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 1.0)),
        generator=torch.Generator().manual_seed(0),
        on_step=on_step,
    )
    return {name: statistics.median(times[WARM_UP:]) for name, times in taken.items()}


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Keep a benchmark's rows with the machine and the date."""
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
