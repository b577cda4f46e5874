"""Backend `slurm`: a stage's units as one job array, submitted through submitit.

Jobs need no driver: it submits them, waits, and reports. What is done follows from the units'
markers alone, and a unit's lease prevents two jobs from doing it at once, so that submitting units
again is safe.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism_nb.core import fileio
from prism_nb.core.device import choose_device
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import Unit
from prism_nb.execution.worker import (
    RunUnit,
    TaskResult,
    WorkerTask,
    one_line,
    run_task,
    threads_per_worker,
)

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job
    from submitit.helpers import DelayedSubmission

_MAX_JOBS = 64  # of an array, if the settings leave the number of workers open
_TIMEOUT_MIN = 240  # a job that needs more time is queued again
_MAX_TIMEOUTS = 50  # by which a job that makes no progress ends
_NFS_SECONDS = 20.0  # for files of another machine to appear on this one
# Variables of sbatch by which users and clusters choose where all jobs go.
_USERS_CHOICES = (
    *("SLURM_CONF", "SBATCH_ACCOUNT", "SBATCH_CLUSTERS", "SBATCH_CONSTRAINT"),
    *("SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION"),
)


def run_on_slurm(run: Run, units: Sequence[Unit], run_unit: RunUnit) -> int:
    """Do units of a stage in jobs, and return their number.

    Units of an earlier call's jobs that still wait or run are left to those; the others are
    submitted as a job array. Interrupting the call leaves the jobs alone.

    Raises:
        PrismError: Jobs were refused, or have ended without all of their units.
    """
    stage, folder = units[0].stage, _folder(run, units[0].stage)
    recorded = [job for job in _recorded_jobs(folder) if any(map(job.covers, units))]
    jobs = [job for job in recorded if job.is_running()]
    if jobs:
        run.events.append(stage, event="jobs_resumed", jobs=[job.id for job in jobs])
    uncovered = [unit for unit in units if not any(job.covers(unit) for job in jobs)]
    if uncovered:
        new = _submit(run, uncovered, run_unit)
        run.events.append(stage, event="submitted", jobs=[job.id for job in new])
        jobs += new
    if run.settings.slurm.get("cluster", "slurm") == "slurm":  # others cannot be found again
        fileio.write_json(folder / "jobs.json", {job.id: job.units for job in jobs})
    try:
        for job in jobs:
            job.job.wait()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(running_jobs_message(run)) from None
    _require_done(run, units, jobs)
    return len(units)


@dataclass(frozen=True)
class SlurmTask:
    """The call that a job makes; submitit repeats it after a preemption or a time limit."""

    task: WorkerTask

    def __call__(self) -> TaskResult:
        """Do the units that are not done."""
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

    def is_running(self) -> bool:
        """Return whether it waits or runs; not if the cluster's accounting has no record of it."""
        return not self.job.done(force_check=True) and self.job.state != "UNKNOWN"

    def error(self) -> str:
        """Return why the job has failed; empty if it has succeeded or left no result."""
        from submitit import DebugJob
        from submitit.core.utils import FailedJobError

        # submitit waits for a result that is not there, and keeps a debug job's in memory.
        if not (self.job.paths.result_pickle.exists() or isinstance(self.job, DebugJob)):
            return ""
        try:
            return self.job.result().error
        except FailedJobError as error:
            return one_line(error)


def _submit(run: Run, units: Sequence[Unit], run_unit: RunUnit) -> list[_StageJob]:
    """Submit units as one job array."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    stage, wanted = units[0].stage, run.settings.workers
    chunks = split_round_robin(units, _MAX_JOBS if wanted == "auto" else wanted)
    executor = make_executor(run.settings, _folder(run, stage), f"{run.name}-{stage}")
    try:
        with _outside_job(), executor.batch():
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


@contextmanager
def _outside_job() -> Iterator[None]:
    """Hide the variables of the job that this driver runs in, if any; jobs would inherit them."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    kept = {name: os.environ[name] for name in _USERS_CHOICES if name in os.environ}
    with clean_env([name for name in os.environ if name.startswith(("OMPI_", "PMI"))]):
        os.environ.update(kept)
        yield


def split_round_robin(units: Sequence[Unit], workers: int) -> list[Sequence[Unit]]:
    """Deal units to workers in turn, so that each gets units of every method."""
    return [units[first::workers] for first in range(min(workers, len(units)))]


def _require_done(run: Run, units: Sequence[Unit], jobs: Sequence[_StageJob]) -> None:
    """Check that all units are done, and wait for files that appear late on a network disk."""
    deadline, missing = time.monotonic() + _NFS_SECONDS, list(units)
    while missing := [unit for unit in missing if not run.units.is_done(unit)]:
        job = next(job for job in jobs if job.covers(missing[0]))
        error = job.error()
        if error or time.monotonic() >= deadline:
            ended = f"it ended without a result (state {job.job.state}), as when memory runs out"
            raise PrismError(
                f"{len(missing)} of {len(units)} units of stage {units[0].stage} were not done, "
                f"first {missing[0].name} in job {job.id}: {error or ended}; "
                f"logs: {job.job.paths.stderr}. Finished units stay; run the same command to try "
                "again"
            )
        time.sleep(1)


def running_jobs_message(run: Run) -> str:
    """Return a sentence on the jobs of a run that continue without a driver; empty if none does."""
    recorded = [job for folder in run.path.glob("jobs/*") for job in _recorded_jobs(folder)]
    running = [job.id for job in recorded if job.is_running()]
    if not running:
        return ""
    arrays = sorted({each.partition("_")[0] for each in running})
    return (
        f"{len(running)} jobs of SLURM may continue: the same command waits for the rest, "
        f"`scancel {' '.join(arrays)}` ends them"
    )


def _recorded_jobs(folder: Path) -> list[_StageJob]:
    """Return the jobs of earlier calls that are recorded in a stage's folder of jobs."""
    record = fileio.read_record(folder / "jobs.json")
    if not record:
        return []
    from submitit import SlurmJob

    return [_StageJob(SlurmJob(folder, job_id), units) for job_id, units in record.items()]


def _folder(run: Run, stage: str) -> Path:
    """Return the folder of a stage's job scripts, logs and records, which every node must reach."""
    return run.file(f"jobs/{stage}").absolute()


# -- submitit's executor ----------------------------------------------------------------------


def require_slurm(settings: Settings) -> None:
    """Check that submitit is installed and can submit from here, and takes the setting `slurm`."""
    with tempfile.TemporaryDirectory() as folder:
        make_executor(settings, Path(folder), "check")


def make_executor(settings: Settings, folder: Path, name: str) -> AutoExecutor:
    """Return submitit's executor with all of its parameters.

    Job scripts and logs lie in `folder`; `name` is the jobs', unless the settings have one.
    """
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise UsageError(
            "backend slurm needs submitit: pip install submitit, or use backend process"
        ) from None
    given: dict[str, Any] = {
        "timeout_min": _TIMEOUT_MIN,
        "cpus_per_task": threads_per_worker(settings),
    }
    if choose_device(settings.device).type == "cuda" and settings.gpus_per_worker:
        given["gpus_per_node"] = math.ceil(settings.gpus_per_worker)
    given |= {"name": name, **settings.slurm}
    cluster = given.pop("cluster", "slurm")
    timeouts = given.pop("slurm_max_num_timeout", _MAX_TIMEOUTS)
    try:
        executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=timeouts)
        executor.update_parameters(**given)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"slurm: {error}; use submitit's parameters on a login node of the cluster, or try "
            "jobs out on this machine with slurm={cluster: local}"
        ) from None
    return executor
