"""The stages of a run: what each needs, planning, executing and checking it."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from prism_nb.core import unit_plan
from prism_nb.core.device import choose_device, disable_malloc_trim, peak_memory_bytes
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import OnEvent, Unit
from prism_nb.data.registry import open_dataset
from prism_nb.diversity import stage as diversity_stage
from prism_nb.evaluation import relabel
from prism_nb.evaluation import stage as evaluation_stage
from prism_nb.execution import cost, disk_space
from prism_nb.execution.backends import SplitUnit, run_units
from prism_nb.execution.worker import RunUnit
from prism_nb.models import squeeze
from prism_nb.synthesis import stage as synthesis_stage


@dataclass(frozen=True)
class Stage:
    """One stage of the series.

    Attributes:
        name: Name of the stage.
        notebook: Name of its notebook, without ending.
        needs: Stages whose files it reads.
        units: Called as `units(run, class_count)`; lists its units.
        run_unit: Does one unit.
        split: Called as `split(run, unit, number)`; returns at most that many units that several
            workers do first, and whose files spare the large unit most of its work.
    """

    name: str
    notebook: str
    needs: tuple[str, ...]
    units: Callable[[Run, int], list[Unit]]
    run_unit: RunUnit
    split: SplitUnit | None = None


_STAGES = (
    Stage(
        name="squeeze",
        notebook="01_teacher_pool",
        needs=(),
        units=unit_plan.squeeze_units,
        run_unit=squeeze.run_unit,
    ),
    Stage(
        name="synthesis",
        notebook="02_synthesis",
        needs=("squeeze",),
        units=unit_plan.synthesis_units,
        run_unit=synthesis_stage.run_unit,
    ),
    Stage(
        name="diversity",
        notebook="03_diversity",
        needs=("squeeze", "synthesis"),
        units=unit_plan.diversity_units,
        run_unit=diversity_stage.run_unit,
    ),
    Stage(
        name="relabel",
        notebook="04_relabel",
        needs=("squeeze", "synthesis"),
        units=unit_plan.relabel_units,
        run_unit=relabel.run_unit,
        split=unit_plan.label_shards,
    ),
    Stage(
        name="evaluation",
        notebook="05_evaluation",
        needs=("synthesis", "relabel"),
        units=unit_plan.student_units,
        run_unit=evaluation_stage.run_unit,
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}


def stage_units(run: Run, stage: str) -> list[Unit]:
    """Return the units of a stage."""
    return _stage(stage).units(run, class_count(run))


def class_count(run: Run) -> int:
    """Return the number of classes, as recorded in the run, or else of its dataset."""
    recorded = run.read_classes()
    return len(open_dataset(run.settings).classes) if recorded is None else len(recorded)


def finished_methods(run: Run) -> list[str]:
    """Return the methods that have all of their images."""
    classes = class_count(run)
    return [
        method
        for method in run.settings.methods
        if all(
            run.units.is_done(unit, verify_hashes=False)
            for unit in unit_plan.method_units(run, method, classes)
        )
    ]


def _stage(name: str) -> Stage:
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}; {suggest(name, STAGES)}")
    return STAGES[name]


@dataclass(frozen=True)
class StagePlan:
    """State of a stage's units, and what the missing ones take.

    Attributes:
        stage: Name of the stage.
        states: State of each unit.
        images: Number of images that the missing units will make; of the synthesis alone.
        seconds_left: Estimate; None where nothing was measured.
        disk_bytes: What the missing units will still write at most, but for small files.
        memory_bytes: Peak memory of a process that worked on the stage in this run, or that has
            measured its steps now; includes other stages in the same process.
        cache_bytes: What the missing units add to the cache at most; 0 where nothing was measured.
    """

    stage: str
    states: tuple[UnitState, ...]
    images: int
    seconds_left: float | None
    disk_bytes: int
    memory_bytes: int | None
    cache_bytes: int

    @property
    def counts(self) -> Counter[str]:
        """Number of units per state."""
        return Counter(state.state for state in self.states)

    @property
    def left(self) -> list[Unit]:
        """The units that are not done."""
        return [state.unit for state in self.states if state.state != "done"]

    @property
    def missing(self) -> int:
        """Number of units that are not done."""
        return len(self.left)


def plan(run: Run, stage: str, *, verify_hashes: bool = True, measure: bool = False) -> StagePlan:
    """Return what is done and what is left of a stage.

    Args:
        run: The run.
        stage: Name of the stage.
        verify_hashes: Whether to hash every file, or only to check that it exists.
        measure: Whether to take a few real steps on this device for the time and memory that the
            missing units need. If not, finished units are the measure of the others.
    """
    units = stage_units(run, stage)
    states = tuple(run.units.state(unit, verify_hashes=verify_hashes) for unit in units)
    done = [state.unit for state in states if state.state == "done"]
    left = [state.unit for state in states if state.state != "done"]
    measure = measure and bool(left)
    memory = run.manifest.stage(stage).get("peak_memory_bytes")
    if measure:
        disable_malloc_trim()
    costs = cost.unit_costs(run, units, measure=measure)
    if measure:
        memory = memory or _peak_memory(run)
    progress = {unit.name: (1.0, run.units.record(unit).get("seconds", 0.0)) for unit in done}
    batches = [unit_plan.batch_of(unit) for unit in left if unit.stage == "synthesis"]
    return StagePlan(
        stage=stage,
        states=states,
        images=sum(len(batch.members()) for batch in batches),
        seconds_left=cost.seconds_left(costs, progress, measured=measure),
        disk_bytes=disk_space.disk_bytes(run, left, class_count(run)),
        memory_bytes=memory,
        cache_bytes=disk_space.cache_bytes(run, left) if measure else 0,
    )


def check(run: Run, stage: str) -> StagePlan:
    """Check that every unit of a stage is done and its files are undamaged.

    Raises:
        PrismError: Units are missing or damaged; the message counts them and names the first.
    """
    found = plan(run, stage)
    if found.missing:
        first = next(state for state in found.states if state.state != "done")
        raise PrismError(
            f"stage {stage} of run {run.name} is not complete: {found.missing} of "
            f"{len(found.states)} units are to be done, first {first.unit.name} ({first.state}"
            f"{': ' + first.reason if first.reason else ''}); run notebook "
            f"{_stage(stage).notebook}, or `prism-nb run` for all stages"
        )
    return found


@dataclass(frozen=True)
class Outcome:
    """Numbers of units that were done before and by a call, and the call's duration."""

    skipped: int
    made: int
    seconds: float


def execute(run: Run, stage: str, on_event: OnEvent | None = None) -> Outcome:
    """Do what is left of a stage. Call it again after any interruption.

    Args:
        run: The run.
        stage: Name of the stage.
        on_event: Called with every event, besides the run's event log.

    Raises:
        PrismError: A stage that it needs is not complete, the disk is too small, another process
            drives the stage, or a unit failed. Finished units stay.
    """
    for needed in _stage(stage).needs:
        check(run, needed)
    return execute_units(run, stage, stage_units(run, stage), on_event)


def execute_units(
    run: Run, stage: str, units: Sequence[Unit], on_event: OnEvent | None = None
) -> Outcome:
    """Do what is left of some units of a stage, without checking the stages that it needs.

    If nothing is left, nothing is written: a finished run may lie in a read-only folder.

    Raises:
        PrismError: As `execute`.
    """
    begin = time.monotonic()
    if _all_done(run, units):
        return Outcome(len(units), 0, time.monotonic() - begin)
    definition = _stage(stage)
    with run.locks.stage(stage), _log_stage(run, stage):
        left = [unit for unit in units if not run.units.is_done(unit, verify_hashes=False)]
        needed = disk_space.disk_bytes(run, left, class_count(run))
        disk_space.check_disk_space(run, {stage: needed})
        disable_malloc_trim()
        made = run_units(
            run, units, definition.run_unit, on_event or (lambda _: None), definition.split
        )
        seconds = time.monotonic() - begin
        if made:
            run.manifest.record_stage(
                stage,
                units_made=made,
                seconds=round(seconds, 3),
                peak_memory_bytes=_peak_memory(run),
            )
    return Outcome(len(units) - made, made, seconds)


def _all_done(run: Run, units: Sequence[Unit]) -> bool:
    """Return whether all units are done and undamaged; files are hashed only if all exist."""
    return all(
        run.units.is_done(unit, verify_hashes=hashes) for hashes in (False, True) for unit in units
    )


@contextmanager
def _log_stage(run: Run, stage: str) -> Iterator[None]:
    """Log as events which process drives a stage, and how that ended."""
    run.events.append(stage, event="start", process=os.getpid(), host=socket.gethostname())
    try:
        yield
    except BaseException as error:
        with suppress(PrismError):  # such as a full disk, which must not hide the first error
            if isinstance(error, KeyboardInterrupt):
                run.events.append(stage, event="stopped")
            else:
                run.events.append(stage, event="failed", reason=str(error) or type(error).__name__)
        raise
    run.events.append(stage, event="complete")


def _peak_memory(run: Run) -> int:
    return peak_memory_bytes(choose_device(run.settings.device))
