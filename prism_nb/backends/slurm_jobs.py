"""The jobs of a stage: which units each does, whether it still lives, and what it has said."""

from __future__ import annotations

import getpass
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from prism_nb import files
from prism_nb.backends.crew import Report
from prism_nb.units import Unit

_ASK = 15.0  # seconds between two questions to the queue, which all of a cluster's users share
_GRACE = 30.0  # seconds for a report to show on this machine once its job has left the queue
_PATIENCE = 60.0  # seconds in which a busy queue must answer


@dataclass(frozen=True)
class Job:
    """A job that was submitted.

    Attributes:
        id: The cluster's name for it; an element of an array has the array's id and its place.
        report: Name of the file that it writes when it ends.
        units: The bindings of its units, by name.
    """

    id: str
    report: str
    units: dict[str, str]

    def does(self, unit: Unit) -> bool:
        """Return whether a unit is among its own."""
        return self.units.get(unit.name) == unit.binding


class Jobs:
    """A stage's jobs, recorded in a folder, so that a later driver finds them.

    Args:
        folder: Where submitit keeps the jobs' scripts and logs.
        cluster: `slurm` or `local`.
    """

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder, self._cluster = folder, cluster
        self._asked, self._queue = -_ASK, set[str]()
        self._gone: dict[str, float] = {}

    def recorded(self) -> list[Job]:
        """Return the jobs that were submitted and have not said that they ended."""
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
        self._asked = -_ASK
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
        """Return the jobs that wait or run, by the queue's last answer."""
        now = time.monotonic()
        if now - self._asked >= _ASK:
            self._queue, self._asked = self._ask(jobs), now
        return [job for job in jobs if job.id in self._queue]

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

    def _ask(self, jobs: Sequence[Job]) -> set[str]:
        ids = {job.id for job in jobs}
        if self._cluster == "local":
            return {name for name in ids if self._is_running(name)}
        answer = _squeue()
        return ids if answer is None else ids & answer

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


def _squeue() -> set[str] | None:
    """Return the user's jobs that wait or run, each element of an array by itself.

    None where the queue does not answer, which says nothing of the jobs.
    """
    options: list[Any] = ["--noheader", "--array", "--format=%i", "--user", getpass.getuser()]
    try:
        answer = subprocess.run(  # noqa: S603
            ["squeue", *options],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return set(answer.stdout.split())
