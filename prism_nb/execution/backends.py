"""Backends, which execute the units of a stage: this process, Ray workers or SLURM jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prism_nb.core.device import num_threads
from prism_nb.core.run import Run
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.progress import follow_events
from prism_nb.execution.ray_backend import run_on_ray
from prism_nb.execution.slurm_backend import run_on_slurm
from prism_nb.execution.worker import RunUnit, run_units_sequentially

_BACKENDS = {"ray": run_on_ray, "slurm": run_on_slurm}
_DEFAULT_SHARDS = 64  # of all units together, if the number of workers is left open

SplitUnit = Callable[[Run, Unit, int], list[Unit]]


def run_units(
    run: Run,
    units: Sequence[Unit],
    run_unit: RunUnit,
    on_event: OnEvent,
    split: SplitUnit | None = None,
) -> int:
    """Execute the units of a stage that are not done, on the backend of the run's settings.

    Every backend leaves the same files on one kind of machine. `run_unit` is a function of a
    module; `split(run, unit, number)` divides a unit among workers of Ray or SLURM.

    Returns:
        Number of units done by this call.

    Raises:
        PrismError: A unit failed. Finished units stay.
    """
    if run.settings.backend == "process":
        return _run_in_process(run, units, run_unit, on_event)
    with follow_events(run, units[0].stage, on_event):
        if split is not None:
            _run_missing(run, _split_units(run, units, split), run_unit)
        return _run_missing(run, units, run_unit)


def _run_in_process(run: Run, units: Sequence[Unit], run_unit: RunUnit, on_event: OnEvent) -> int:
    def log_event(event: dict[str, Any]) -> None:
        run.events.append(units[0].stage, **event)
        on_event(event)

    with num_threads(run.settings.threads):
        return run_units_sequentially(run, units, run_unit, log_event)


def _run_missing(run: Run, units: Sequence[Unit], run_unit: RunUnit) -> int:
    """Do the units that are not done in other processes; return how many were done.

    Units that read the files of others come after these.
    """
    missing = []
    for unit in units:
        if run.units.is_done(unit):
            run.events.append(unit.stage, event="unit_skipped", **unit.event_fields)
        else:
            missing.append(unit)
    made, execute = 0, _BACKENDS[run.settings.backend]
    while missing:
        markers = {unit.marker for unit in missing}
        ready = [unit for unit in missing if markers.isdisjoint(unit.inputs)]
        missing = [unit for unit in missing if not markers.isdisjoint(unit.inputs)]
        made += execute(run, ready, run_unit)
    return made


def _split_units(run: Run, units: Sequence[Unit], split: SplitUnit) -> list[Unit]:
    """Split the units that are not done into about as many shards as there are workers."""
    missing = [unit for unit in units if not run.units.is_done(unit)]
    workers = _DEFAULT_SHARDS if run.settings.workers == "auto" else run.settings.workers
    number = -(-workers // max(1, len(missing)))
    return [shard for unit in missing for shard in split(run, unit, number)]
