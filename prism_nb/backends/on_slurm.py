"""Units as jobs of a queue: submitted as an array, followed by whoever drives the stage.

The jobs need no driver. One that leaves, or dies, finds them again; what is done is said by the
units' markers alone, whatever becomes of jobs and drivers.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from prism_nb import files
from prism_nb.backends.crew import Followed, Task, work_off
from prism_nb.backends.slurm_executor import cluster_of, executor_of, require_slurm, submit
from prism_nb.backends.slurm_jobs import Job, Jobs, report_name, stop_command
from prism_nb.backends.work import OnEvent, Outcome
from prism_nb.device import keep_freed_memory
from prism_nb.errors import PrismError
from prism_nb.run import Run
from prism_nb.units import Unit

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_MOST_JOBS = 64  # of an array, where the settings leave their number open
_LOOK = 1.0  # seconds between two looks at the jobs' reports
_LATE = 60.0  # seconds for files of another machine to show on this one
_NAMED = 5  # the most jobs that a message names


@dataclass(frozen=True)
class Duty:
    """What one job does. submitit calls it, and again after a preemption or a time limit.

    Attributes:
        task: Its units; those that are done by then are passed over.
        report: Path of the file that says how it ended.
    """

    task: Task
    report: str

    def __call__(self) -> None:
        """Do the units, and write down what became of that."""
        keep_freed_memory()
        files.write_json(Path(self.report), asdict(work_off(self.task)))

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit is to queue again: the same, since files say what is left."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_on_slurm(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in jobs, as `run_units` does.

    Jobs of an earlier call that still wait or run are followed; only what none of them does is
    submitted.

    Raises:
        PrismError: Jobs were refused, or have ended without all of their units.
    """
    require_slurm(run.settings)
    begin, stage = time.monotonic(), units[0].stage
    missing = _missing(run, units)
    to_do = {unit.name for unit in missing}
    with Followed(run, stage, on_event):
        for unit in units:
            if unit.name not in to_do:
                run.event(stage, event="kept", **unit.words)
        if missing:
            _Driver(run, stage, missing).drive(work)
    kept = len(units) - len(missing)
    return Outcome(kept, len(missing), time.monotonic() - begin)


def left_behind(run: Run) -> str:
    """Return in words which jobs of a run go on without a driver; empty where none does."""
    cluster = cluster_of(run.settings)
    stages = [Jobs(folder.absolute(), cluster) for folder in sorted(run.path.glob("jobs/*"))]
    jobs = [job for stage in stages for job in stage.in_queue(stage.recorded())]
    return _go_on(jobs, cluster) if jobs else ""


def deal(units: Sequence[Unit], workers: int) -> list[tuple[Unit, ...]]:
    """Deal units to workers in turn, so that each gets as much of every method."""
    hands = [tuple(units[start::workers]) for start in range(workers)]
    return [hand for hand in hands if hand]


class _Driver:
    """Brings the missing units of a stage to their end."""

    def __init__(self, run: Run, stage: str, units: Sequence[Unit]) -> None:
        self._run, self._stage, self._units = run, stage, units
        self._cluster = cluster_of(run.settings)
        self._silence = ""
        self._jobs = Jobs(run.file(f"jobs/{stage}").absolute(), self._cluster)

    def drive(self, work: str) -> None:
        """Submit what no job does, and follow all jobs until they have ended."""
        found = self._jobs.in_queue(self._jobs.recorded())
        mine = [job for job in found if any(map(job.does, self._units))]
        left = [unit for unit in self._units if not any(job.does(unit) for job in mine)]
        if mine:
            self._tell("followed", mine)
        if left:
            new = self._submit(left, work, beside=found)
            self._tell("submitted", new)
            mine += new
        self._follow(mine)
        self._require_all(mine)

    def _submit(self, units: Sequence[Unit], work: str, *, beside: Sequence[Job]) -> list[Job]:
        """Submit units as an array, and record it, with the jobs that there are beside it.

        It is recorded before it is submitted, too: the next driver finds the jobs of one that dies
        in between by their name.
        """
        settings, folder = self._run.settings, self._jobs.folder
        workers = min(len(units), _MOST_JOBS) if settings.workers == "auto" else settings.workers
        hands, token = deal(units, workers), secrets.token_hex(4)
        planned = [
            Job("", report_name(token, place), {unit.name: unit.binding for unit in hand})
            for place, hand in enumerate(hands)
        ]
        duties = [
            Duty(Task.of(self._run, hand, work), str(folder / job.report))
            for hand, job in zip(hands, planned, strict=True)
        ]
        executor = executor_of(settings, folder, f"{self._run.name}-{self._stage}", token)
        self._jobs.write([*beside, *planned])
        submitted = submit(executor, duties)
        jobs = [replace(job, id=its.job_id) for job, its in zip(planned, submitted, strict=True)]
        self._jobs.write([*beside, *jobs])
        return jobs

    def _follow(self, jobs: Sequence[Job]) -> None:
        """Wait for the jobs; interrupting that leaves them alone."""
        under_way = list(jobs)
        try:
            while under_way := self._jobs.under_way(jobs):
                self._tell_of_silence()
                time.sleep(_LOOK)
        except KeyboardInterrupt:
            self._tell("left", under_way)
            raise KeyboardInterrupt(_go_on(under_way, self._cluster)) from None

    def _tell_of_silence(self) -> None:
        """Say that the queue does not answer, whenever that begins, and that it does again."""
        before, self._silence = self._silence, self._jobs.silence
        if self._silence and not before:
            self._run.event(self._stage, event="waiting", why=self._silence)
        if before and not self._silence:
            self._run.event(self._stage, event="answered")

    def _require_all(self, jobs: Sequence[Job]) -> None:
        """Check that all units are done, allowing for files that show late.

        Raises:
            PrismError: Some are not.
        """
        reports = [self._jobs.report(job) for job in jobs]
        well = all(report is not None and not report.error for report in reports)
        deadline = time.monotonic() + (_LATE if well else 0)
        while missing := _missing(self._run, self._units):
            if time.monotonic() >= deadline:
                self._fail(jobs, missing)
            time.sleep(_LOOK)

    def _fail(self, jobs: Sequence[Job], missing: Sequence[Unit]) -> NoReturn:
        guilty = [job for job in jobs if any(map(job.does, missing))]
        reasons = [self._reason(job, missing) for job in guilty[:_NAMED]]
        more = f"; and {len(guilty) - _NAMED} more jobs" if guilty[_NAMED:] else ""
        raise PrismError(
            f"{len(missing)} of {len(self._units)} units of stage {self._stage} were not done: "
            f"{'; '.join(reasons)}{more}. Finished units stay; run the same command to try again"
        )

    def _reason(self, job: Job, missing: Sequence[Unit]) -> str:
        """Return in words what became of a job that left units undone."""
        names = [unit.name for unit in missing if job.does(unit)]
        rest = f" (and {len(names) - 1} after it)" if names[1:] else ""
        report = self._jobs.report(job)
        said = report.error if report is not None else ""
        ended = "it ended without a word, as when memory or time runs out, or it is cancelled"
        return f"{names[0]}{rest} in job {job.id}: {said or ended} ({self._jobs.log(job)})"

    def _tell(self, what: str, jobs: Sequence[Job]) -> None:
        ids = [job.id for job in jobs]
        self._run.event(self._stage, event=what, jobs=ids)


def _go_on(jobs: Sequence[Job], cluster: str) -> str:
    go, them = ("job goes", "it") if len(jobs) == 1 else ("jobs go", "them")
    return (
        f"{len(jobs)} {go} on; the same command follows {them}; `{stop_command(jobs, cluster)}` "
        f"ends {them}"
    )


def _missing(run: Run, units: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in units if run.inspect(unit).state != "done"]
