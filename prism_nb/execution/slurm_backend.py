"""Backend `slurm`: a stage's units as one job array, submitted through submitit.

Jobs need no driver: it submits them, waits, and reports. What is done follows from the units'
markers alone, and a unit's lease prevents two jobs from doing it at once, so that submitting units
again is safe.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism_nb.core import fileio
from prism_nb.core.device import choose_device, disable_malloc_trim
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.progress import follow_events
from prism_nb.execution.worker import (
    Outcome,
    TaskResult,
    WorkerTask,
    one_line,
    run_task,
    threads_per_worker,
)

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job
    from submitit.helpers import DelayedSubmission

CLUSTERS = ("slurm", "local", "debug")
_MAX_JOBS = 64  # of an array, if the settings leave the number of workers open
_TIMEOUT_MIN = 240  # a job that needs more time is queued again
_MAX_TIMEOUTS = 50  # by which a job that makes no progress ends
_POLL_SECONDS = 1.0
_NFS_SECONDS = 20.0  # for files of another machine to appear on this one
_NAMED_JOBS = 5  # the most that a message names


def run_backend_slurm(run: Run, units: Sequence[Unit], run_unit: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in jobs, as `run_units` does.

    Units of an earlier call's jobs that still wait or run are left to those; the others are
    submitted as a job array. Interrupting the call leaves the jobs alone.

    Raises:
        PrismError: Jobs were refused, or have ended without all of their units.
    """
    start, stage = time.monotonic(), units[0].stage
    missing = _missing(run, units)
    names = {unit.name for unit in missing}
    with follow_events(run, stage, on_event):
        for unit in units:
            if unit.name not in names:
                run.events.append(stage, event="unit_skipped", **unit.event_fields)
        if missing:
            jobs = _resume(run, stage, missing)
            if jobs:
                run.events.append(stage, event="jobs_resumed", jobs=[job.id for job in jobs])
            covered = {unit.name for job in jobs for unit in missing if job.covers(unit)}
            uncovered = [unit for unit in missing if unit.name not in covered]
            if uncovered:
                new = _submit(run, stage, uncovered, run_unit)
                run.events.append(stage, event="submitted", jobs=[job.id for job in new])
                jobs += new
            _record(run, stage, jobs)
            _wait(run, stage, jobs)
            _require_done(run, missing, jobs)
    return Outcome(len(units) - len(missing), len(missing), time.monotonic() - start)


@dataclass(frozen=True)
class SlurmTask:
    """The call that a job makes; submitit repeats it after a preemption or a time limit.

    Attributes:
        task: The job's units; those that are done are skipped.
    """

    task: WorkerTask

    def __call__(self) -> TaskResult:
        """Do the units."""
        disable_malloc_trim()
        return run_task(self.task)

    def checkpoint(self) -> DelayedSubmission:
        """Return the call that submitit queues next: the same, since files record what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class _StageJob:
    """A submitted job, and the fingerprints of its units by name."""

    job: Job[TaskResult]
    units: dict[str, str]

    @property
    def id(self) -> str:
        """The cluster's name for it; of an array's element, the array's id and its index."""
        return str(self.job.job_id)

    def covers(self, unit: Unit) -> bool:
        """Return whether the job does this unit with these settings."""
        return self.units.get(unit.name) == unit.fingerprint


def _submit(run: Run, stage: str, units: Sequence[Unit], run_unit: str) -> list[_StageJob]:
    """Submit units as one job array.

    Raises:
        PrismError: The cluster refused them; the message is its own.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    wanted = run.settings.workers
    chunks = split_round_robin(units, _MAX_JOBS if wanted == "auto" else wanted)
    executor = make_executor(run.settings, _folder(run, stage), f"{run.name}-{stage}")
    try:
        with executor.batch():
            jobs = [
                executor.submit(SlurmTask(WorkerTask.of(run, chunk, run_unit))) for chunk in chunks
            ]
    except (FailedJobError, FailedSubmissionError) as error:
        raise PrismError(
            f"sbatch refused the jobs: {one_line(error)}; change the setting `slurm` (submitit's "
            "names, e.g. slurm_partition) and run the same command again"
        ) from None
    return [
        _StageJob(job, {unit.name: unit.fingerprint for unit in chunk})
        for job, chunk in zip(jobs, chunks, strict=True)
    ]


def split_round_robin(units: Sequence[Unit], workers: int) -> list[Sequence[Unit]]:
    """Deal units to workers in turn, so that each gets units of every method."""
    return [units[first::workers] for first in range(min(workers, len(units)))]


def _wait(run: Run, stage: str, jobs: Sequence[_StageJob]) -> None:
    """Wait until all jobs have ended."""
    running = list(jobs)
    try:
        while running := [job for job in running if not job.job.done()]:
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        ids = [job.id for job in running]
        run.events.append(stage, event="driver_detached", jobs=ids)
        raise KeyboardInterrupt(_running_message(ids)) from None


def _require_done(run: Run, units: Sequence[Unit], jobs: Sequence[_StageJob]) -> None:
    """Check that all units are done, and wait for files that appear late on a network disk.

    Raises:
        PrismError: Units are missing; the message names jobs and their logs.
    """
    deadline, missing = time.monotonic() + _NFS_SECONDS, _missing(run, units)
    while missing:
        failed = [job for job in jobs if any(map(job.covers, missing))]
        if time.monotonic() >= deadline or any(map(_reported_error, failed)):
            break
        time.sleep(_POLL_SECONDS)
        missing = _missing(run, missing)
    else:
        return
    reasons = []
    for job in failed[:_NAMED_JOBS]:
        first, *others = [unit.name for unit in missing if job.covers(unit)]
        rest = f" (and {len(others)} after it)" if others else ""
        reason = _reported_error(job) or (
            f"it ended without a result (state {job.job.state}), as when memory or time runs out, "
            "or it is cancelled"
        )
        reasons.append(f"{first}{rest} in job {job.id}: {reason} ({job.job.paths.stderr})")
    more = f"; and {len(failed) - _NAMED_JOBS} more jobs" if failed[_NAMED_JOBS:] else ""
    raise PrismError(
        f"{len(missing)} of {len(units)} units of stage {units[0].stage} were not done: "
        f"{'; '.join(reasons)}{more}. Finished units stay; run the same command to try again"
    )


def _reported_error(job: _StageJob) -> str:
    """Return the message of a job that failed; empty if it succeeded or left no result."""
    from submitit import DebugJob
    from submitit.core.utils import FailedJobError

    # submitit waits for a result that is not there, and keeps a debug job's in memory.
    if not job.job.paths.result_pickle.exists() and not isinstance(job.job, DebugJob):
        return ""
    try:
        return job.job.result().error
    except FailedJobError as error:
        return one_line(error)


def _missing(run: Run, units: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in units if not run.units.is_done(unit)]


# -- jobs of earlier calls --------------------------------------------------------------------


def running_jobs_message(run: Run) -> str:
    """Return a sentence on the jobs of a run that continue without a driver; empty if none does."""
    jobs = [job for folder in sorted(run.path.glob("jobs/*")) for job in _recorded(folder)]
    ids = [job.id for job in jobs if _is_running(job)]
    return _running_message(ids) if ids else ""


def _running_message(ids: Sequence[str]) -> str:
    arrays = sorted({each.partition("_")[0] for each in ids})
    return (
        f"{len(ids)} job{'s' * (len(ids) > 1)} of SLURM may continue: the same command waits for "
        f"the rest, `scancel {' '.join(arrays)}` ends them"
    )


def _resume(run: Run, stage: str, units: Sequence[Unit]) -> list[_StageJob]:
    """Return the jobs of earlier calls that wait or run and cover some of the units."""
    return [
        job
        for job in _recorded(_folder(run, stage))
        if any(map(job.covers, units)) and _is_running(job)
    ]


def _is_running(job: _StageJob) -> bool:
    """Return whether a job waits or runs; not if the cluster's accounting has no record of it."""
    return not job.job.done(force_check=True) and job.job.state != "UNKNOWN"


def _recorded(folder: Path) -> list[_StageJob]:
    """Return the jobs of SLURM that are recorded in a stage's folder of jobs."""
    from submitit import SlurmJob

    record = fileio.read_record(folder / "jobs.json")
    return [
        _StageJob(SlurmJob(folder, job_id), units)
        for job_id, units in record.items()
        if isinstance(units, dict)
    ]


def _record(run: Run, stage: str, jobs: Sequence[_StageJob]) -> None:
    """Record a stage's jobs of SLURM, which a later call can find; local ones it cannot."""
    if _cluster(run.settings) == "slurm":
        record = {job.id: job.units for job in jobs}
        fileio.write_json(_folder(run, stage) / "jobs.json", record)


def _folder(run: Run, stage: str) -> Path:
    """Return the folder of a stage's job scripts, logs and records, which every node must reach."""
    return run.file(f"jobs/{stage}").absolute()


# -- submitit's executor ----------------------------------------------------------------------


def require_slurm(settings: Settings) -> None:
    """Check that jobs can be submitted from here, without submitting any.

    Raises:
        UsageError: submitit is not installed, this machine cannot submit, or the setting `slurm`
            holds parameters that submitit does not take.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_executor(settings, Path(folder), "check")


def make_executor(settings: Settings, folder: Path, name: str) -> AutoExecutor:
    """Return submitit's executor with all of its parameters.

    Args:
        settings: The run's.
        folder: Folder of job scripts and logs.
        name: The jobs' name, unless the settings have one.

    Raises:
        UsageError: As `require_slurm`.
    """
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise UsageError(
            "backend slurm needs the package submitit, which is not installed; install it with "
            "`pip install submitit`, or use backend process"
        ) from None
    cluster = _cluster(settings)
    if cluster not in CLUSTERS:
        raise UsageError(f"slurm.cluster: {cluster!r} is unknown; {suggest(cluster, CLUSTERS)}")
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UsageError(
            "backend slurm needs the commands sbatch and srun, which are not on the PATH here; "
            "start the run on a login node of the cluster, or try jobs out on this machine with "
            "slurm={cluster: local}"
        )
    given = {**_defaults(settings), "name": name, **settings.slurm}
    given.pop("cluster", None)
    timeouts = given.pop("slurm_max_num_timeout", _MAX_TIMEOUTS)
    executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=timeouts)
    try:
        executor.update_parameters(**given)
    except (AssertionError, TypeError, ValueError, NameError) as error:
        raise UsageError(f"slurm: submitit does not take these parameters: {error}") from None
    return executor


def _cluster(settings: Settings) -> str:
    """Return submitit's cluster: `slurm`, `local` processes, or `debug` in this process."""
    return str(settings.slurm.get("cluster", "slurm"))


def _defaults(settings: Settings) -> dict[str, Any]:
    """Return the jobs' resources where the settings leave them open."""
    on_gpu = choose_device(settings.device).type == "cuda"
    gpus = math.ceil(settings.gpus_per_worker) if on_gpu else 0
    values = {"timeout_min": _TIMEOUT_MIN, "cpus_per_task": threads_per_worker(settings)}
    return values | ({"gpus_per_node": gpus} if gpus else {})
