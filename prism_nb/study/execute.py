"""Carrying a study out: its runs side by side, each in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from prism_nb import pipeline
from prism_nb.backends.processes import Task, run_tasks
from prism_nb.config import digest
from prism_nb.data import open_dataset
from prism_nb.errors import UsageError
from prism_nb.plans.squeeze import network_units
from prism_nb.preflight import preflight
from prism_nb.run import Run
from prism_nb.study.cells import Cell
from prism_nb.study.folder import StudyFolder

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Round:
    """Cells that may run side by side, and what to call them."""

    name: str
    cells: list[Cell]


def execute_study(folder: StudyFolder, *, workers: int, say: Say) -> None:
    """Do what is left of a study. Call it again after any interruption.

    Teachers first, once for all runs that share them; then the searches; then the scenarios
    with what the searches chose.

    Args:
        folder: The study.
        workers: Runs side by side; each has one CPU thread, so that results do not depend on it.
        say: Receives a line per finished run.

    Raises:
        PrismError: A run failed. Finished units of all runs stay.
    """
    check_study(folder)
    searches, scenarios = list(folder.searches.values()), list(folder.scenarios.values())
    folder.record()
    _carry_out(folder, _Round("teachers", _teachers([*searches, *scenarios])), workers, say)
    _carry_out(folder, _Round("search", searches), workers, say)
    folder = folder.fresh()
    chosen = list(folder.scenarios.values())
    for cell in chosen:
        folder.run(cell).require_unmixed()
    _carry_out(folder, _Round("scenario", chosen), workers, say)


def check_study(folder: StudyFolder) -> None:
    """Check, before any work, that every run of a study can be carried out.

    Raises:
        UsageError: The first thing that cannot work; which run it is about stands before it.
    """
    for cell in folder.searches.values():
        folder.run(cell).require_unmixed()
    for cell in [*folder.searches.values(), *folder.scenarios.values()]:
        try:
            preflight(cell.settings, folder.run(cell))
        except UsageError as error:
            raise UsageError(f"run {cell.name}: {error}") from None


def default_workers() -> int:
    """Return how many runs go side by side where nothing is asked for: one per core, at most 8."""
    return min(8, os.cpu_count() or 1)


def plan_table(folder: StudyFolder, workers: int) -> pd.DataFrame:
    """Return how many runs each part of a study has, how many are done, and the time left.

    The time is what finished units took, scaled to what is to be done.
    """
    rows = {}
    for name, cells in (("search", folder.searches), ("scenarios", folder.scenarios)):
        done = [cell for cell in cells.values() if folder.is_done(cell)]
        rate = _seconds(folder, done) / sum(map(_cost, done)) if done else None
        left = sum(_cost(cell) for cell in cells.values() if cell not in done)
        minutes = "not measured" if rate is None else f"{left * rate / workers / 60:.0f} min"
        rows[name] = {"runs": len(cells), "done": len(done), "time left": minutes}
    return pd.DataFrame.from_dict(rows, orient="index")


def _seconds(folder: StudyFolder, cells: Sequence[Cell]) -> float:
    """Return the seconds that finished units took, without those of teachers."""
    total = 0.0
    for cell in cells:
        run = folder.run(cell)
        units = [u for s in cell.stages[1:] for u in pipeline.stage_units(run, s)]
        total += sum(run.record(unit)["seconds"] for unit in units)
    return total


def do_cell(folder: str, cell: Cell) -> float:
    """Take one run through its stages; return the seconds that took. Runs in a worker."""
    begin = time.monotonic()
    run = Run.create(Path(folder) / cell.name, cell.settings)
    run.write_classes(open_dataset(run.settings).class_records())
    for stage in cell.stages:
        pipeline.execute(run, stage)
    return time.monotonic() - begin


def _carry_out(folder: StudyFolder, batch: _Round, workers: int, say: Say) -> None:
    left = [cell for cell in batch.cells if not folder.is_done(cell)]
    if len(left) < len(batch.cells):
        say(f"{batch.name:<9} {len(batch.cells) - len(left)} of {len(batch.cells)} done before")
    largest_first = sorted(left, key=_cost, reverse=True)
    tasks = [
        Task(cell.name, "prism_nb.study.execute:do_cell", (str(folder.path), cell))
        for cell in largest_first
    ]
    done = len(batch.cells) - len(left)
    for name, seconds in run_tasks(tasks, workers=workers):
        done += 1
        say(f"{batch.name:<9} {done:>3} of {len(batch.cells)}  {name}, {seconds:.0f} s")


def _teachers(cells: Sequence[Cell]) -> list[Cell]:
    """Return one cell per distinct set of networks, cut down to the stage that trains them.

    Runs take over teachers that a sibling has trained in the same way.
    """
    distinct = {
        digest([u.binding for u in network_units(cell.settings)]): cell for cell in reversed(cells)
    }
    return [Cell(cell.name, cell.settings, ("teachers",)) for cell in distinct.values()]


def _cost(cell: Cell) -> float:
    """Rank a cell by how long it will take: what it optimises, roughly."""
    settings = cell.settings
    recipes = map(settings.recipe_of, settings.methods)
    steps = sum(recipe.iterations for recipe in recipes if recipe.images == "recovered")
    return max(1, steps) * settings.ipc
