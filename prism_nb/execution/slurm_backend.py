"""Units as jobs of a queue: submitted as an array, followed by whoever drives the stage.

The jobs need no driver. One that leaves, or dies, finds them again; what is done is said by the
units' markers alone, whatever becomes of jobs and drivers.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from prism_nb.core import fileio
from prism_nb.core.device import choose_device, disable_malloc_trim
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.worker import EventTail, Outcome, TaskResult, WorkerTask, run_task

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job
    from submitit.helpers import DelayedSubmission


_MOST_JOBS = 64  # of an array, where the settings leave their number open
_LOOK = 1.0  # seconds between two looks at the jobs' reports
_LATE = 60.0  # seconds for files of another machine to show on this one
_NAMED = 5  # the most jobs that a message names


@dataclass(frozen=True)
class SlurmTask:
    """What one job does. submitit calls it, and again after a preemption or a time limit.

    Attributes:
        task: Its units; those that are done by then are passed over.
        report: Path of the file that says how it ended.
    """

    task: WorkerTask
    report: str

    def __call__(self) -> None:
        """Do the units, and write down what became of that."""
        disable_malloc_trim()
        fileio.write_json(Path(self.report), asdict(run_task(self.task)))

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit is to queue again: the same, since files say what is left."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_backend_slurm(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
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
    with EventTail(run, stage, on_event):
        for unit in units:
            if unit.name not in to_do:
                run.event(stage, event="unit_skipped", **unit.event_fields)
        if missing:
            _Driver(run, stage, missing).drive(work)
    kept = len(units) - len(missing)
    return Outcome(kept, len(missing), time.monotonic() - begin)


def running_jobs_message(run: Run) -> str:
    """Return in words which jobs of a run go on without a driver; empty where none does."""
    cluster = cluster_of(run.settings)
    stages = [JobStore(folder.absolute(), cluster) for folder in sorted(run.path.glob("jobs/*"))]
    jobs = [job for stage in stages for job in stage.in_queue(stage.recorded())]
    return _go_on(jobs, cluster) if jobs else ""


def split_round_robin(units: Sequence[Unit], workers: int) -> list[tuple[Unit, ...]]:
    """Deal units to workers in turn, so that each gets as much of every method."""
    hands = [tuple(units[start::workers]) for start in range(workers)]
    return [hand for hand in hands if hand]


class _Driver:
    """Brings the missing units of a stage to their end."""

    def __init__(self, run: Run, stage: str, units: Sequence[Unit]) -> None:
        self._run, self._stage, self._units = run, stage, units
        self._cluster = cluster_of(run.settings)
        self._silence = ""
        self._jobs = JobStore(run.file(f"jobs/{stage}").absolute(), self._cluster)

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

    def _submit(
        self, units: Sequence[Unit], work: str, *, beside: Sequence[SlurmJob]
    ) -> list[SlurmJob]:
        """Submit units as an array, and record it, with the jobs that there are beside it.

        It is recorded before it is submitted, too: the next driver finds the jobs of one that dies
        in between by their name.
        """
        settings, folder = self._run.settings, self._jobs.folder
        workers = min(len(units), _MOST_JOBS) if settings.workers == "auto" else settings.workers
        hands, token = split_round_robin(units, workers), secrets.token_hex(4)
        planned = [
            SlurmJob("", result_name(token, place), {unit.name: unit.fingerprint for unit in hand})
            for place, hand in enumerate(hands)
        ]
        duties = [
            SlurmTask(WorkerTask.of(self._run, hand, work), str(folder / job.report))
            for hand, job in zip(hands, planned, strict=True)
        ]
        executor = make_executor(settings, folder, f"{self._run.name}-{self._stage}", token)
        self._jobs.write([*beside, *planned])
        submitted = submit_array(executor, duties)
        jobs = [replace(job, id=its.job_id) for job, its in zip(planned, submitted, strict=True)]
        self._jobs.write([*beside, *jobs])
        return jobs

    def _follow(self, jobs: Sequence[SlurmJob]) -> None:
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
            self._run.event(self._stage, event="queue_recovered")

    def _require_all(self, jobs: Sequence[SlurmJob]) -> None:
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

    def _fail(self, jobs: Sequence[SlurmJob], missing: Sequence[Unit]) -> NoReturn:
        guilty = [job for job in jobs if any(map(job.does, missing))]
        reasons = [self._reason(job, missing) for job in guilty[:_NAMED]]
        more = f"; and {len(guilty) - _NAMED} more jobs" if guilty[_NAMED:] else ""
        raise PrismError(
            f"{len(missing)} of {len(self._units)} units of stage {self._stage} were not done: "
            f"{'; '.join(reasons)}{more}. Finished units stay; run the same command to try again"
        )

    def _reason(self, job: SlurmJob, missing: Sequence[Unit]) -> str:
        """Return in words what became of a job that left units undone."""
        names = [unit.name for unit in missing if job.does(unit)]
        rest = f" (and {len(names) - 1} after it)" if names[1:] else ""
        report = self._jobs.report(job)
        said = report.error if report is not None else ""
        ended = "it ended without a word, as when memory or time runs out, or it is cancelled"
        return f"{names[0]}{rest} in job {job.id}: {said or ended} ({self._jobs.log(job)})"

    def _tell(self, what: str, jobs: Sequence[SlurmJob]) -> None:
        ids = [job.id for job in jobs]
        self._run.event(self._stage, event=what, jobs=ids)


def _go_on(jobs: Sequence[SlurmJob], cluster: str) -> str:
    go, them = ("job goes", "it") if len(jobs) == 1 else ("jobs go", "them")
    return (
        f"{len(jobs)} {go} on; the same command follows {them}; `{stop_command(jobs, cluster)}` "
        f"ends {them}"
    )


def _missing(run: Run, units: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in units if run.inspect(unit).state != "done"]


CLUSTERS = ("slurm", "local")
_COMMANDS = ("sbatch", "srun", "squeue")
_OWN = "cluster"  # chooses submitit's executor
_TIMEOUTS = "slurm_max_num_timeout"  # submitit takes it apart from the others
_NAMES = ("name", "slurm_job_name")
_MINUTES = 240  # a job that needs more is queued again
_MOST_TIMEOUTS = 50  # by which a job that never gets further comes to an end


def cluster_of(settings: Settings) -> str:
    """Return who runs the jobs: `slurm`, or `local` for processes of this machine."""
    return str(settings.slurm.get(_OWN, "slurm"))


def require_slurm(settings: Settings) -> None:
    """Check that jobs can be submitted from here, without submitting any.

    Raises:
        UsageError: submitit is not installed, this machine cannot submit, or the `slurm` settings
            hold something that submitit does not take.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(
            "backend slurm needs the package submitit, which is not installed; install it with "
            "`pip install submitit`, or use backend process"
        ) from None
    cluster = cluster_of(settings)
    if cluster not in CLUSTERS:
        raise UsageError(f"slurm.cluster: {cluster!r} is none; {suggest(cluster, CLUSTERS)}")
    _refuse_strangers(settings.slurm)
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        raise UsageError(
            f"backend slurm needs the command {missing[0]}, which is not on the PATH here; start "
            "the run on a login node of the cluster, or try jobs out on this machine with "
            "slurm={cluster: local}"
        )


def make_executor(settings: Settings, folder: Path, name: str, token: str) -> AutoExecutor:
    """Return what submits jobs, with all of its parameters.

    Args:
        settings: The run's.
        folder: Where scripts and logs of the jobs lie; every node must see it.
        name: The jobs' name in the queue, where the settings have none.
        token: What the name ends with, by which these jobs are told from others.

    Raises:
        UsageError: As `require_slurm`, or a parameter has a wrong type.
    """
    require_slurm(settings)
    from submitit import AutoExecutor

    given = {key: value for key, value in settings.slurm.items() if key not in {_OWN, _TIMEOUTS}}
    for setting in _NAMES:
        name = given.pop(setting, name)
    timeouts = {_TIMEOUTS: settings.slurm.get(_TIMEOUTS, _MOST_TIMEOUTS)}
    executor = AutoExecutor(folder, cluster=cluster_of(settings), **timeouts)
    try:
        executor.update_parameters(**{**_defaults(settings), **given, "name": f"{name}-{token}"})
    except (AssertionError, TypeError, ValueError, NameError) as error:
        raise UsageError(f"slurm: submitit does not take these parameters: {error}") from None
    return executor


def submit_array(executor: AutoExecutor, calls: Sequence[Any]) -> list[Job[None]]:
    """Submit calls without arguments as one job array.

    Raises:
        PrismError: They were refused; the message is the cluster's own.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return executor.submit_array(calls)
    except (FailedJobError, FailedSubmissionError) as error:
        reason = " ".join(str(error).split())
        raise PrismError(
            f"sbatch refused the jobs: {reason}; change the setting `slurm` (submitit's names, "
            "e.g. slurm_partition) and run the same command again"
        ) from None


def _defaults(settings: Settings) -> dict[str, Any]:
    """Return what jobs ask for where the settings leave it open."""
    on_gpu = choose_device(settings.device).type == "cuda"
    values = {
        "timeout_min": _MINUTES,
        "cpus_per_task": 1 if settings.threads == "auto" else settings.threads,
    }
    gpus = math.ceil(settings.gpus_per_worker) if on_gpu else 0
    return values | ({"gpus_per_node": gpus} if gpus else {})


def _refuse_strangers(given: Mapping[str, Any]) -> None:
    valid = _parameters()
    for name in given:
        if name not in valid:
            near = f"slurm_{name}" if f"slurm_{name}" in valid else name
            raise UsageError(f"slurm: {name!r} is no parameter of submitit; {suggest(near, valid)}")


def _parameters() -> set[str]:
    """Return every name that the `slurm` settings may hold."""
    from submitit import AutoExecutor, SlurmExecutor

    own = {f"slurm_{name}" for name in SlurmExecutor._valid_parameters()}
    return {_OWN, _TIMEOUTS} | own | AutoExecutor._valid_parameters()


_GRACE = 30.0  # seconds for a report to show on this machine once its job has left the queue


@dataclass(frozen=True)
class SlurmJob:
    """A job that was submitted, or was about to be.

    Attributes:
        id: The cluster's name for it; an element of an array has the array's id and its place.
            Empty until it is known.
        report: Name of the file that it writes when it ends, as `report_name` has it.
        units: The bindings of its units, by name.
    """

    id: str
    report: str
    units: dict[str, str]

    def does(self, unit: Unit) -> bool:
        """Return whether a unit is among its own."""
        return self.units.get(unit.name) == unit.fingerprint


def result_name(token: str, place: int | str) -> str:
    """Return the name of a job's report.

    Args:
        token: What tells the array from others; the jobs' name in the queue ends with it.
        place: The job's in the array.
    """
    return f"{token}-{place}.json"


class JobStore:
    """A stage's jobs, recorded in a folder, so that a later driver finds them.

    Args:
        folder: Where submitit keeps the jobs' scripts and logs.
        cluster: `slurm` or `local`.
    """

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self._cluster = folder, cluster
        self._queue = Queue()
        self._gone: dict[str, float] = {}

    def recorded(self) -> list[SlurmJob]:
        """Return the jobs that were submitted, or were to be, and have not said that they ended."""
        record = fileio.read_record(self._record)
        if record.get("cluster") != self._cluster:
            return []
        try:
            jobs = [SlurmJob(**job) for job in record["jobs"]]
        except (KeyError, TypeError):
            return []
        return [job for job in jobs if self.report(job) is None]

    def write(self, jobs: Sequence[SlurmJob]) -> None:
        """Record the jobs that there are now, of which the queue is to be asked anew."""
        self._queue.ask_anew()
        fileio.write_json(
            self._record, {"cluster": self._cluster, "jobs": [asdict(job) for job in jobs]}
        )

    def report(self, job: SlurmJob) -> TaskResult | None:
        """Return what a job has said at its end; None where it has said nothing."""
        try:
            return TaskResult(**fileio.read_record(self.folder / job.report))
        except TypeError:
            return None

    def in_queue(self, jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Return the jobs that wait or run, each with its id, by the queue's last answer."""
        return [found for job in jobs if (found := self._find(job)) is not None]

    @property
    def silence(self) -> str:
        """Since when the queue has not answered, in words; empty where it has of late."""
        return self._queue.silence

    def under_way(self, jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Return the jobs that have not ended; one that left the queue may yet be heard of."""
        silent = [job for job in jobs if self.report(job) is None]
        queued = {job.id for job in self.in_queue(silent)} if silent else set()
        now = time.monotonic()
        self._gone = {job.id: self._gone.get(job.id, now) for job in silent if job.id not in queued}
        return [job for job in silent if now - self._gone.get(job.id, now) < _GRACE]

    def log(self, job: SlurmJob) -> Path:
        """Return the file that holds what a job has written to its standard error."""
        return self.folder / f"{job.id}_0_log.err"

    @property
    def _record(self) -> Path:
        return self.folder / "jobs.json"

    def _find(self, job: SlurmJob) -> SlurmJob | None:
        if self._cluster == "local":
            return job if job.id and self._is_running(job.id) else None
        queued = self._queue.jobs()
        if job.id:
            return job if queued is None or job.id in queued else None
        ids = [number for number, name in (queued or {}).items() if _is_of(job, number, name)]
        return replace(job, id=ids[0]) if ids else None

    def _is_running(self, process: str) -> bool:
        """Return whether a process of this machine is submitit's, at work for this folder."""
        try:
            command: list[str] = psutil.Process(int(process)).cmdline()
        except psutil.Error:
            return False
        return str(self.folder) in command


def stop_command(jobs: Iterable[SlurmJob], cluster: str) -> str:
    """Return the command that ends jobs."""
    ids = sorted({job.id.partition("_")[0] for job in jobs})
    return f"{'kill' if cluster == 'local' else 'scancel'} {' '.join(ids)}"


def _is_of(job: SlurmJob, number: str, name: str) -> bool:
    """Return whether an entry of the queue is a job whose id was never written down."""
    token, _, _ = job.report.partition("-")
    place = number.partition("_")[2] or 0  # a job alone is no array
    return name.endswith(f"-{token}") and result_name(token, place) == job.report


_ASK = 15.0  # seconds between two questions to the queue, which all of a cluster's users share
_PATIENCE = 60.0  # seconds in which a busy queue must answer
_SILENCE = 180.0  # seconds without an answer, after which that is worth a word


class Queue:
    """The user's jobs that wait or run, asked for now and then."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._jobs: dict[str, str] | None = None
        self._answered, self._why = time.time(), ""

    def jobs(self) -> dict[str, str] | None:
        """Return the names of the jobs by id, each element of an array by itself.

        None where the queue does not answer, which says nothing of the jobs.
        """
        now = time.monotonic()
        if self._asked is None or now - self._asked >= _ASK:
            self._asked, self._jobs = now, self._ask()
        return self._jobs

    def ask_anew(self) -> None:
        """Let the next look be a question, whenever the last one was."""
        self._asked = None

    @property
    def silence(self) -> str:
        """Since when the queue has not answered, in words; empty where it has of late."""
        if not self._why or time.time() - self._answered < _SILENCE:
            return ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._answered))
        return f"squeue has not answered since {since} ({self._why}); the jobs are waited for"

    def _ask(self) -> dict[str, str] | None:
        try:
            lines = _squeue().splitlines()
        except subprocess.TimeoutExpired:
            self._why = f"no answer within {_PATIENCE:.0f} s"
        except subprocess.CalledProcessError as error:
            self._why = " ".join(error.stderr.split()) or f"exit code {error.returncode}"
        except OSError as error:
            self._why = str(error)
        else:
            self._answered, self._why = time.time(), ""
            return {number: name for number, _, name in (line.partition(" ") for line in lines)}
        return None


def _squeue() -> str:
    user = str(os.getuid())  # not the name, which a node need not know
    done = subprocess.run(  # noqa: S603
        ["squeue", "--noheader", "--array", "--format=%i %j", "--user", user],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=True,
    )
    return done.stdout
