"""The jobs of a stage: which units each does, whether it still lives, and what it has said."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from prism_nb import files
from prism_nb.backends.crew import Report
from prism_nb.backends.slurm_queue import Queue
from prism_nb.units import Unit

_GRACE = 30.0  # seconds for a report to show on this machine once its job has left the queue


@dataclass(frozen=True)
class Job:
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
        return self.units.get(unit.name) == unit.binding


def report_name(token: str, place: int | str) -> str:
    """Return the name of a job's report.

    Args:
        token: What tells the array from others; the jobs' name in the queue ends with it.
        place: The job's in the array.
    """
    return f"{token}-{place}.json"


class Jobs:
    """A stage's jobs, recorded in a folder, so that a later driver finds them.

    Args:
        folder: Where submitit keeps the jobs' scripts and logs.
        cluster: `slurm` or `local`.
    """

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self._cluster = folder, cluster
        self._queue = Queue()
        self._gone: dict[str, float] = {}

    def recorded(self) -> list[Job]:
        """Return the jobs that were submitted, or were to be, and have not said that they ended."""
        record = files.read_record(self._record)
        if record.get("cluster") != self._cluster:
            return []
        try:
            jobs = [Job(**job) for job in record["jobs"]]
        except (KeyError, TypeError):
            return []
        return [job for job in jobs if self.report(job) is None]

    def write(self, jobs: Sequence[Job]) -> None:
        """Record the jobs that there are now, of which the queue is to be asked anew."""
        self._queue.ask_anew()
        files.write_json(
            self._record, {"cluster": self._cluster, "jobs": [asdict(job) for job in jobs]}
        )

    def report(self, job: Job) -> Report | None:
        """Return what a job has said at its end; None where it has said nothing."""
        try:
            return Report(**files.read_record(self.folder / job.report))
        except TypeError:
            return None

    def in_queue(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that wait or run, each with its id, by the queue's last answer."""
        return [found for job in jobs if (found := self._find(job)) is not None]

    @property
    def silence(self) -> str:
        """Since when the queue has not answered, in words; empty where it has of late."""
        return self._queue.silence

    def under_way(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that have not ended; one that left the queue may yet be heard of."""
        silent = [job for job in jobs if self.report(job) is None]
        queued = {job.id for job in self.in_queue(silent)} if silent else set()
        now = time.monotonic()
        self._gone = {job.id: self._gone.get(job.id, now) for job in silent if job.id not in queued}
        return [job for job in silent if now - self._gone.get(job.id, now) < _GRACE]

    def log(self, job: Job) -> Path:
        """Return the file that holds what a job has written to its standard error."""
        return self.folder / f"{job.id}_0_log.err"

    @property
    def _record(self) -> Path:
        return self.folder / "jobs.json"

    def _find(self, job: Job) -> Job | None:
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


def stop_command(jobs: Iterable[Job], cluster: str) -> str:
    """Return the command that ends jobs."""
    ids = sorted({job.id.partition("_")[0] for job in jobs})
    return f"{'kill' if cluster == 'local' else 'scancel'} {' '.join(ids)}"


def _is_of(job: Job, number: str, name: str) -> bool:
    """Return whether an entry of the queue is a job whose id was never written down."""
    token, _, _ = job.report.partition("-")
    place = number.partition("_")[2] or 0  # a job alone is no array
    return name.endswith(f"-{token}") and report_name(token, place) == job.report
