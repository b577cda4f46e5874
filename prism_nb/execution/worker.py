"""Work on units: one after another in this process, or as a task that a worker process does."""

from __future__ import annotations

import hashlib
import platform
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prism_nb.core.device import disable_malloc_trim
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import LeaseHeldError
from prism_nb.core.manifest import DECISIVE_PACKAGES, package_version
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit, WriteResult

_POLL_SECONDS = 2.0  # between attempts at units that other processes work on

RunUnit = Callable[[Run, Unit, OnEvent], WriteResult | None]


def run_units_sequentially(
    run: Run, units: Sequence[Unit], run_unit: RunUnit, on_event: OnEvent
) -> int:
    """Do all units of a stage that are not done, and return their number.

    Units of other processes are waited for. A callable that `run_unit` returns writes the unit's
    files, in the background while the next unit is computed.
    """
    remaining = list(units)
    with ThreadPoolExecutor(1) as thread:  # which ends after its last write, whatever happens
        worker = _SequentialWorker(run, run_unit, on_event, thread)
        while remaining:
            held = [unit for unit in remaining if not worker.try_unit(unit)]
            if len(held) == len(remaining):
                time.sleep(_POLL_SECONDS)
            remaining = held
        worker.wait_for_writes()
    return worker.made


class _SequentialWorker:
    """Does units under their leases; `made` counts the units done here."""

    def __init__(
        self, run: Run, run_unit: RunUnit, on_event: OnEvent, thread: ThreadPoolExecutor
    ) -> None:
        self._run, self._run_unit, self._on_event, self._thread = run, run_unit, on_event, thread
        self._writing: Future[None] | None = None
        self._reported_held: set[str] = set()
        self.made = 0

    def try_unit(self, unit: Unit) -> bool:
        """Do a unit unless it is done; return False where another process holds it."""
        if self._is_done(unit):
            return True
        with ExitStack() as lease:
            try:
                lease.enter_context(self._run.units.hold(unit))
            except LeaseHeldError as error:
                self._report_held(unit, error)
                return False
            if self._is_done(unit):  # by the holder of the lease until now
                return True
            self._on_event({"event": "unit_start", **unit.event_fields})
            start = time.monotonic()
            write = self._run_unit(self._run, unit, self._on_event)
            kept_lease = lease.pop_all()  # released once the files are written
        before = self._writing
        self._writing = self._thread.submit(self._finish, unit, start, write, kept_lease)
        if before is not None:
            before.result()
        self.made += 1
        return True

    def wait_for_writes(self) -> None:
        """Wait until the last unit's files are written, and raise its failure."""
        if self._writing is not None:
            self._writing.result()

    def _is_done(self, unit: Unit) -> bool:
        done = self._run.units.is_done(unit)
        if done:
            self._on_event({"event": "unit_skipped", **unit.event_fields})
        return done

    def _finish(
        self, unit: Unit, start: float, write: WriteResult | None, lease: ExitStack
    ) -> None:
        with lease:
            if write is not None:
                self._run.units.check_held(unit)
                write()
            if self._run.units.marker(unit) is None:
                raise PrismError(f"the work on unit {unit.name} left no marker")
        seconds = time.monotonic() - start
        self._on_event({"event": "unit_end", **unit.event_fields, "seconds": seconds})

    def _report_held(self, unit: Unit, held: LeaseHeldError) -> None:
        if unit.name not in self._reported_held:
            self._reported_held.add(unit.name)
            self._on_event({"event": "unit_held", "unit": unit.name, "owner": str(held.owner)})


@dataclass(frozen=True)
class WorkerTask:
    """Units of one stage for one worker, with the run's settings, and its path on every machine."""

    run: str
    settings: dict[str, Any]
    units: tuple[Unit, ...]
    run_unit: RunUnit
    versions: str  # of the driver

    @classmethod
    def of(cls, run: Run, units: Sequence[Unit], run_unit: RunUnit) -> WorkerTask:
        """Return a task for some units of a run."""
        path, settings = str(run.path.absolute()), run.settings.plain()
        return cls(path, settings, tuple(units), run_unit, worker_versions())


@dataclass(frozen=True)
class TaskResult:
    """Number of units that a worker has made, and the message of the failure that ended it."""

    made: int
    error: str = ""


def run_task(task: WorkerTask) -> TaskResult:
    """Do a task in this process; its events go to the run's event log."""
    disable_malloc_trim()
    try:
        if task.versions != worker_versions():
            raise PrismError(
                f"a worker on {socket.gethostname()} has {worker_versions()}, but the run's driver "
                f"{task.versions}. Install the same on every machine, end jobs from before an "
                "upgrade, and run the same command again"
            )
        run = Run(Path(task.run), Settings.parse(task.settings, where=task.run))
        torch.set_num_threads(threads_per_worker(run.settings))

        def log_event(event: dict[str, Any]) -> None:
            if event["event"] != "unit_skipped":  # which the driver logs
                run.events.append(task.units[0].stage, **event)

        return TaskResult(run_units_sequentially(run, task.units, task.run_unit, log_event))
    except PrismError as error:
        return TaskResult(0, str(error))
    except Exception as error:
        return TaskResult(0, f"{type(error).__name__}: {error}")


def threads_per_worker(settings: Settings) -> int:
    """Return the number of CPU threads of a worker process."""
    return 1 if settings.threads == "auto" else settings.threads


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())


@cache
def worker_versions() -> str:
    """Return the versions that decide results, the kit's with a digest of its source."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    kit = f"prism-nb {package_version('prism-nb')} (source {digest.hexdigest()[:12]})"
    others = [f"{name} {package_version(name)}" for name in DECISIVE_PACKAGES]
    return ", ".join([kit, f"Python {platform.python_version()}", *others])
