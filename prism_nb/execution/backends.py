"""Backends, which execute the units of a stage: this process, Ray workers or SLURM jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism_nb.core.device import num_threads
from prism_nb.core.run import Run
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.ray_backend import run_backend_ray
from prism_nb.execution.slurm_backend import run_backend_slurm
from prism_nb.execution.worker import Outcome, import_function, run_units_sequentially

_DEFAULT_SHARDS = 64  # of all units together, if the number of workers is left open


@dataclass(frozen=True)
class UnitSplitter:
    """Division of one large unit among several workers.

    Attributes:
        split: `module:function` called as `split(run, unit, number)`; returns at most that many
            units, whose files spare the large unit most of its work.
        run_unit: `module:function` of the `UnitFunction` of such a unit.
    """

    split: str
    run_unit: str


def run_units(
    run: Run,
    units: Sequence[Unit],
    run_unit: str,
    on_event: OnEvent,
    splitter: UnitSplitter | None = None,
) -> Outcome:
    """Execute the units of a stage that are not done, on the backend of the run's settings.

    Every backend leaves the same files on one kind of machine.

    Args:
        run: The run.
        units: Units of one stage.
        run_unit: `module:function` of a `UnitFunction`, which reads and writes the run's files.
        on_event: Called with every event of the stage.
        splitter: Division of a unit among workers of Ray or SLURM; None: none.

    Raises:
        PrismError: A unit failed. Finished units stay.
    """
    backend = _BACKENDS[run.settings.backend]
    if splitter is not None and run.settings.backend != "process":
        shards = _split_units(run, units, splitter)
        if shards:
            backend(run, shards, splitter.run_unit, on_event)
    return backend(run, units, run_unit, on_event)


def _run_backend_process(
    run: Run, units: Sequence[Unit], run_unit: str, on_event: OnEvent
) -> Outcome:
    def log_event(event: dict[str, Any]) -> None:
        run.events.append(units[0].stage, **event)
        on_event(event)

    threads = run.settings.threads
    with num_threads(None if threads == "auto" else threads):
        return run_units_sequentially(run, units, run_unit, log_event)


_BACKENDS = {"process": _run_backend_process, "ray": run_backend_ray, "slurm": run_backend_slurm}


def _split_units(run: Run, units: Sequence[Unit], splitter: UnitSplitter) -> list[Unit]:
    """Split the units that are not done into about as many shards as there are workers."""
    missing = [unit for unit in units if not run.units.is_done(unit)]
    workers = _DEFAULT_SHARDS if run.settings.workers == "auto" else run.settings.workers
    number = -(-workers // max(1, len(missing)))
    split = import_function(splitter.split)
    return [shard for unit in missing for shard in split(run, unit, number)]
