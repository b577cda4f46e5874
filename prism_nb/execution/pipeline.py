"""The stages of a run: what each needs, planning, executing and checking it."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from prism_nb.core import unit_plan
from prism_nb.core.cpu_load import OtherLoad
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import OnEvent, Unit

if TYPE_CHECKING:
    from prism_nb.execution.backends import SplitUnit
    from prism_nb.execution.worker import RunUnit

# Modules that import torch are imported where work begins, so that the state of a run is shown in
# less than a second.


class Stage(NamedTuple):
    """One stage of the series."""

    name: str
    notebook: str  # its name, without ending
    needs: tuple[str, ...]  # stages whose files it reads
    units: Callable[[Run, int], list[Unit]]  # called as `units(run, class_count)`
    module: str  # of the package; its `run_unit` does one unit
    # Called as `split(run, unit, number)`; returns at most that many units that several workers do
    # first, and whose files spare the large unit most of its work.
    split: SplitUnit | None = None

    @property
    def run_unit(self) -> RunUnit:
        """The function that does one unit."""
        function: RunUnit = import_module(f"prism_nb.{self.module}").run_unit
        return function


_BOTH, _SHARDS = ("squeeze", "synthesis"), unit_plan.label_shards
_STAGES = (
    Stage("squeeze", "01_teacher_pool", (), unit_plan.squeeze_units, "models.squeeze"),
    Stage("synthesis", "02_synthesis", ("squeeze",), unit_plan.synthesis_units, "synthesis.stage"),
    Stage("diversity", "03_diversity", _BOTH, unit_plan.diversity_units, "diversity.stage"),
    Stage("relabel", "04_relabel", _BOTH, unit_plan.relabel_units, "evaluation.relabel", _SHARDS),
    Stage(
        "evaluation",
        "05_evaluation",
        ("synthesis", "relabel"),
        unit_plan.student_units,
        "evaluation.stage",
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}


def stage_units(run: Run, stage: str) -> list[Unit]:
    """Return the units of a stage."""
    return find_stage(stage).units(run, class_count(run))


def class_count(run: Run) -> int:
    """Return the number of classes, as recorded in the run, or else of its dataset."""
    recorded = run.read_classes()
    if recorded is not None:
        return len(recorded)
    from prism_nb.data.registry import open_dataset

    return len(open_dataset(run.settings).classes)


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


def find_stage(name: str) -> Stage:
    """Return the stage of a name."""
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}; {suggest(name, STAGES)}")
    return STAGES[name]


@dataclass(frozen=True)
class StageState:
    """State of a stage's units."""

    stage: str
    states: tuple[UnitState, ...]
    seconds_left: float | None  # estimate for the missing units; None where unknown

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


@dataclass(frozen=True)
class StagePlan(StageState):
    """State of a stage's units, and what the missing ones take."""

    images: int  # that the missing units will make; of the synthesis alone
    disk_bytes: int  # what they will still write at most, but for small files
    # Peak memory of a process that worked on the stage in this run, or that has measured its steps
    # now; includes other stages in the same process.
    memory_bytes: int | None
    cache_bytes: int  # what they add to the cache at most; 0 where nothing was measured
    other_cores: float | None  # kept busy by other processes in the measurement, if there was one
    reusable: tuple[Unit, ...] = ()  # missing ones that are taken over from other runs at once

    @property
    def to_make(self) -> list[Unit]:
        """The units that are neither done nor taken over."""
        return [unit for unit in self.left if unit not in self.reusable]


def state(run: Run, stage: str, *, verify_hashes: bool = True) -> StageState:
    """Return what is done and what is left of a stage, with the time left at the pace so far.

    Without `verify_hashes`, files need only exist.
    """
    units = stage_units(run, stage)
    states = tuple(run.units.state(unit, verify_hashes=verify_hashes) for unit in units)
    costs = {unit.name: relative_cost(run.settings, unit) for unit in units}
    return StageState(stage, states, seconds_left(costs, _progress(run, states)))


def _progress(run: Run, states: Sequence[UnitState]) -> dict[str, tuple[float, float]]:
    """Return the seconds of finished units, as `seconds_left` takes them."""
    done = [state.unit for state in states if state.state == "done"]
    return {unit.name: (1.0, run.units.record(unit).get("seconds", 0.0)) for unit in done}


def relative_cost(settings: Settings, unit: Unit) -> float:
    """Return a unit's cost, to be compared with that of other units of its stage.

    It is images x tiles x steps x networks x area of the images in the synthesis, and 1 elsewhere.
    """
    if unit.stage != "synthesis":
        return 1.0
    batch = unit_plan.batch_of(unit)
    recipe = settings.recipe_of(unit.params["method"]).for_image_index(batch.image_indices[0])
    if recipe.image_source != "optimized":
        return float(len(batch.members()))
    starts = (recipe.start_step(index, settings.ipc) for _, index in batch.members())
    steps = sum(recipe.iterations - start for start in starts)
    tiles = recipe.tiles(settings.image_size)
    return steps * tiles * recipe.mean_area * recipe.mean_networks(settings.pool)


def seconds_left(
    costs: Mapping[str, float],
    progress: Mapping[str, tuple[float, float]],
    *,
    measured: bool = False,
) -> float | None:
    """Return the time that the rest of a stage will take, at the pace of what is done.

    Args:
        costs: Every unit's cost, by its name.
        progress: By the name of a unit begun: its share that is done in [0, 1], and its seconds.
        measured: Whether costs are seconds, so that nothing need be done yet.

    Returns:
        Seconds; None if nothing is known.
    """
    done = sum(share * costs[name] for name, (share, _) in progress.items())
    left = sum(costs.values()) - done
    if left and done:
        return left * sum(seconds for _, seconds in progress.values()) / done
    return left if measured or not left else None


def plan(run: Run, stage: str, *, verify_hashes: bool = True, measure: bool = False) -> StagePlan:
    """Return the state of a stage, and what its missing units take.

    With `measure`, a few real steps on this device give the time and memory that the missing units
    need, and the pace of finished ones corrects that; without, finished units are the measure of
    the others.
    """
    from prism_nb.core.device import disable_malloc_trim, num_threads
    from prism_nb.execution import cost, disk_space

    found = state(run, stage, verify_hashes=verify_hashes)
    seconds, memory = found.seconds_left, run.manifest.stage(stage).get("peak_memory_bytes")
    cores, reusable = None, _reusable_units(run, found)
    if reusable and len(reusable) == found.missing:
        seconds = 0.0
    elif measure and found.missing:
        disable_malloc_trim()
        load = OtherLoad()
        with num_threads(run.settings.threads):
            units = [each.unit for each in found.states if each.unit not in reusable]
            costs = cost.measured_costs(run, units) | {unit.name: 0.0 for unit in reusable}
        seconds = seconds_left(costs, _progress(run, found.states), measured=True)
        cores, memory = load.cores(), memory or _peak_memory(run)
    batches = [unit_plan.batch_of(unit) for unit in found.left if unit.stage == "synthesis"]
    made = [unit for unit in found.left if unit not in reusable]
    return StagePlan(
        stage=stage,
        states=found.states,
        seconds_left=seconds,
        images=sum(len(batch.members()) for batch in batches),
        disk_bytes=disk_space.disk_bytes(run, found.left, class_count(run)),
        memory_bytes=memory,
        cache_bytes=disk_space.cache_bytes(run, made) if measure else 0,
        other_cores=cores,
        reusable=reusable,
    )


def _reusable_units(run: Run, found: StageState) -> tuple[Unit, ...]:
    """Return the missing units of the squeeze that another run has finished in the same way."""
    if found.stage != "squeeze" or not found.missing:
        return ()
    from prism_nb.models.squeeze import find_reusable_run

    return tuple(unit for unit in found.left if find_reusable_run(run, unit) is not None)


def check(run: Run, stage: str) -> StageState:
    """Check that every unit of a stage is done and its files are undamaged."""
    found = state(run, stage)
    if found.missing:
        first = next(state for state in found.states if state.state != "done")
        raise PrismError(
            f"stage {stage} of run {run.name} is not complete: {found.missing} of "
            f"{len(found.states)} units are to be done, first {first.unit.name} ({first.state}"
            f"{': ' + first.reason if first.reason else ''}); run notebook "
            f"{find_stage(stage).notebook}, or `prism-nb run` for all stages"
        )
    return found


@dataclass(frozen=True)
class Outcome:
    """Numbers of units that were done before and by a call, and the call's duration.

    Those of networks that another run had trained are made by a call, in no time: `taken_over`.
    """

    skipped: int
    made: int
    seconds: float
    taken_over: int = 0

    def __str__(self) -> str:
        made = f"{self.made} units made{taken_over_text(self.taken_over)}"
        return f"{made}, {self.skipped} done before, {self.seconds:.1f} s"


def taken_over_text(units: int) -> str:
    """Return how many of the units made were taken over from other runs; empty for none."""
    return f" ({units} of them taken over from other runs)" if units else ""


def count_taken_over(run: Run, units: Sequence[Unit]) -> int:
    """Return the number of finished units that were taken over from other runs."""
    return sum(bool(run.units.record(unit).get("reused_from")) for unit in units)


def execute(run: Run, stage: str, on_event: OnEvent | None = None) -> Outcome:
    """Do what is left of a stage. Call it again after any interruption.

    `on_event` is called with every event, besides the run's event log.

    Raises:
        PrismError: A stage that it needs is not complete, the disk is too small, another process
            drives the stage, or a unit failed. Finished units stay.
    """
    for needed in find_stage(stage).needs:
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
    from prism_nb.core.device import disable_malloc_trim
    from prism_nb.execution import disk_space
    from prism_nb.execution.backends import run_units

    begin = time.monotonic()
    if _all_done(run, units):
        return Outcome(len(units), 0, time.monotonic() - begin)
    definition = find_stage(stage)
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
    return Outcome(len(units) - made, made, seconds, count_taken_over(run, left))


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
    from prism_nb.core.device import choose_device, peak_memory_bytes

    return peak_memory_bytes(choose_device(run.settings.device))
