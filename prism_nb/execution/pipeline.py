"""The stages in order: what each needs, what is left to do, doing it, and checking it."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from prism_nb.core import unit_plan
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.backends import UnitSplitter, run_units
from prism_nb.execution.worker import Outcome, import_function


@dataclass(frozen=True)
class Stage:
    """One stage of the series.

    Attributes:
        name: Its name in the run.
        notebook: Its notebook's name, without ending.
        needs: Stages whose files it reads.
        units: Lists its units from a run and the class count.
        run_unit: `module:function` that does one.
        prepare: `module:function` called before the first unit that is to be done.
        splitter: How one unit is shared among several workers.
    """

    name: str
    notebook: str
    needs: tuple[str, ...]
    units: Callable[[Run, int], list[Unit]]
    run_unit: str
    prepare: str | None = None
    splitter: UnitSplitter | None = None


_STAGES = (
    Stage(
        "squeeze",
        "01_teacher_pool",
        (),
        unit_plan.squeeze_units,
        "prism_nb.models.squeeze:run_unit",
    ),
    Stage(
        "synthesis",
        "02_synthesis",
        ("squeeze",),
        unit_plan.synthesis_units,
        "prism_nb.synthesis.stage:run_unit",
        prepare="prism_nb.execution.cost:choose_compile",
    ),
    Stage(
        "diversity",
        "03_diversity",
        ("squeeze", "synthesis"),
        unit_plan.diversity_units,
        "prism_nb.diversity.stage:run_unit",
    ),
    Stage(
        "relabel",
        "04_relabel",
        ("squeeze", "synthesis"),
        unit_plan.relabel_units,
        "prism_nb.evaluation.relabel:run_unit",
        splitter=UnitSplitter(
            "prism_nb.core.unit_plan:label_shards", "prism_nb.evaluation.relabel:label_shard"
        ),
    ),
    Stage(
        "evaluation",
        "05_evaluation",
        ("synthesis", "relabel"),
        unit_plan.student_units,
        "prism_nb.evaluation.stage:run_unit",
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}


@dataclass(frozen=True)
class StagePlan:
    """What is done and what is left of a stage.

    Attributes:
        stage: The stage's name.
        states: The state of each unit.
        images: Number of images that the missing units will make; of the synthesis alone.
        seconds_left: Estimate; None where nothing was measured.
        disk_bytes: The most that the missing units will write, but for what is small.
        memory_bytes: The most memory that a process has held that worked on the stage in this
            run, or that has measured its steps now; other stages in the same process included.
        cache_bytes: What the missing units add to the cache of decoded images at most, which all
            runs share; 0 where nothing was measured.
    """

    stage: str
    states: tuple[UnitState, ...]
    images: int
    seconds_left: float | None
    disk_bytes: int
    memory_bytes: int | None
    cache_bytes: int = 0

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
        """Number of units that a call of `execute` would do."""
        return len(self.states) - self.counts["done"]


def class_count(run: Run) -> int:
    """Return the number of classes: as recorded, else as the dataset has them."""
    recorded = run.read_classes()
    if recorded is not None:
        return len(recorded)
    from prism_nb.data.registry import open_dataset

    return len(open_dataset(run.settings).classes)


def finished_methods(run: Run) -> list[str]:
    """Return the methods whose images are all there."""
    classes = class_count(run)
    return [
        method
        for method in run.settings.methods
        if all(
            run.units.is_done(unit, verify_hashes=False)
            for unit in unit_plan.method_units(run, method, classes)
        )
    ]


def stage_units(run: Run, stage: str) -> list[Unit]:
    """Return the units of a stage."""
    return _stage(stage).units(run, class_count(run))


def plan(run: Run, stage: str, *, deep: bool = True, measure: bool = False) -> StagePlan:
    """Say what is done and what is left of a stage.

    Args:
        run: The run.
        stage: The stage's name.
        deep: Whether to hash every file, or only to look whether it exists.
        measure: Whether to take a few real steps on this device for the time and memory that the
            missing units need. If not, or where that cannot be measured, the mean of the units
            that are done stands for the others.
    """
    from prism_nb.execution import cost, disk_space  # imports torch

    states = tuple(run.units.state(unit, verify_hashes=deep) for unit in stage_units(run, stage))
    left = _missing(states)
    memory = run.manifest.stage(stage).get("peak_memory_bytes")
    measure = measure and bool(left)
    if measure:
        _keep_freed_memory()
    costs = cost.unit_costs(run, [state.unit for state in states], measure=measure)
    if measure:
        memory = memory or _peak_memory(run)
    done = [state.unit for state in states if state.state == "done"]
    progress = {unit.name: (1.0, run.units.record(unit).get("seconds", 0.0)) for unit in done}
    return StagePlan(
        stage=stage,
        states=states,
        images=sum(_images(unit) for unit in left),
        seconds_left=cost.seconds_left(costs, progress, measured=measure),
        disk_bytes=disk_space.disk_bytes(run.settings, left, class_count(run)),
        memory_bytes=memory,
        cache_bytes=disk_space.cache_bytes(run, left) if measure else 0,
    )


def _missing(states: Sequence[UnitState]) -> list[Unit]:
    return [state.unit for state in states if state.state != "done"]


def _images(unit: Unit) -> int:
    return len(unit_plan.batch_of(unit).members()) if unit.stage == "synthesis" else 0


def execute(run: Run, stage: str, on_event: OnEvent | None = None) -> Outcome:
    """Do what is left of a stage. Call it again after any interruption.

    Args:
        run: The run.
        stage: The stage's name.
        on_event: Told of progress, beside the run's event log.

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
    """Do what is left of some units of a stage, whatever the stages before have done.

    Where nothing is left, nothing is written, so that a finished run may lie in a read-only folder.

    Raises:
        PrismError: As `execute`.
    """
    begin = time.monotonic()
    if _all_done(run, units):
        return Outcome(kept=len(units), made=0, seconds=time.monotonic() - begin)
    how = _stage(stage)
    with run.locks.stage(stage), _told(run, stage):
        _require_disk(run, stage)
        _keep_freed_memory()
        if how.prepare is not None:
            import_function(how.prepare)(run, units)
        outcome = run_units(run, units, how.run_unit, on_event or _ignore, how.splitter)
        if outcome.made:
            run.manifest.record_stage(
                stage,
                units_made=outcome.made,
                seconds=round(outcome.seconds, 3),
                peak_memory_bytes=_peak_memory(run),
            )
    return outcome


def _all_done(run: Run, units: Sequence[Unit]) -> bool:
    """Return whether all units are done and whole; files are hashed only if none is missing."""
    return all(
        run.units.is_done(unit, verify_hashes=deep) for deep in (False, True) for unit in units
    )


def _ignore(_: object) -> None:
    """Listen to no event."""


@contextmanager
def _told(run: Run, stage: str) -> Iterator[None]:
    """Note in a stage's event log who drives it and how that ended, for whoever follows it."""
    run.events.append(stage, event="start", process=os.getpid(), host=socket.gethostname())
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(PrismError):  # a full disk, say, which is not what is to be raised
            if stopped:
                run.events.append(stage, event="stopped")
            else:
                run.events.append(stage, event="failed", reason=str(error) or type(error).__name__)
        raise
    run.events.append(stage, event="complete")


def check(run: Run, stage: str) -> StagePlan:
    """Check that every unit of a stage is done and its files are whole.

    Raises:
        PrismError: Some are not; the message counts them and names the first.
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


def _keep_freed_memory() -> None:
    from prism_nb.core.device import disable_malloc_trim

    disable_malloc_trim()


def _peak_memory(run: Run) -> int:
    from prism_nb.core.device import choose_device, peak_memory_bytes

    return peak_memory_bytes(choose_device(run.settings.device))


def _stage(name: str) -> Stage:
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}; {suggest(name, STAGES)}")
    return STAGES[name]


def remaining_bytes(run: Run, found: StagePlan) -> int:
    """Return what a stage will still write, less what its unfinished units have written."""
    return max(0, found.disk_bytes - _begun_bytes(run, found.stage))


def _begun_bytes(run: Run, stage: str) -> int:
    """Return the size of what unfinished units have written already."""
    if stage != "relabel":
        return 0
    begun = [u.params["method"] for u in stage_units(run, stage) if run.units.marker(u) is None]
    written = [p for method in begun for p in run.file(f"labels/{method}").glob("epoch_*")]
    return sum(path.stat().st_size for path in written)


def _require_disk(run: Run, stage: str) -> None:
    needed = remaining_bytes(run, plan(run, stage, deep=False))
    free = shutil.disk_usage(run.path).free
    if needed > free:
        raise PrismError(
            f"stage {stage} needs about {needed / 1e9:.1f} GB at {run.path}, but "
            f"{free / 1e9:.1f} GB are free; free some space or choose another runs_dir"
        )
