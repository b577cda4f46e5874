"""How units are carried out: one function, whatever does the work."""

from __future__ import annotations

from collections.abc import Sequence

from prism_nb.core.run import Run
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.worker import Outcome, UnitSplitter, import_function

_BACKENDS = {
    "process": "prism_nb.execution.worker:run_backend_process",
    "ray": "prism_nb.execution.ray_backend:run_backend_ray",
    "slurm": "prism_nb.execution.slurm_backend:run_backend_slurm",
}
_PIECES = 64  # of all units together, where the number of workers is left open


def run_units(
    run: Run,
    units: Sequence[Unit],
    work: str,
    on_event: OnEvent,
    pieces: UnitSplitter | None = None,
) -> Outcome:
    """Do the units of a stage that are not done.

    The same files come out of every backend on one kind of machine. Units are independent, so
    their order, and who does which, decides nothing.

    Args:
        run: The run that the units belong to.
        units: All units of one stage, in order.
        work: `module:function` of a `Work`; it reads and writes files of the run only. What it
            returns, if anything, writes the unit's files, while the next unit is begun.
        on_event: Told of each unit's begin and end, and of what the work reports, as the stage's
            event log is.
        pieces: How a unit is shared among several workers, where there are such.

    Raises:
        PrismError: A unit failed. Finished units stay.
    """
    backend = import_function(_BACKENDS[run.settings.backend])
    cut = _cut(run, units, pieces) if pieces and run.settings.backend != "process" else []
    if pieces and cut:
        backend(run, cut, pieces.work, on_event)
    return backend(run, units, work, on_event)


def _cut(run: Run, units: Sequence[Unit], pieces: UnitSplitter) -> list[Unit]:
    """Cut the units that are not done into as many pieces as there are workers, or few more."""
    left = [unit for unit in units if run.inspect(unit).state != "done"]
    workers = _PIECES if run.settings.workers == "auto" else run.settings.workers
    each = -(-workers // max(1, len(left)))
    return [piece for unit in left for piece in import_function(pieces.cut)(run, unit, each)]
