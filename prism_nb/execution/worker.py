"""Work on units: one after another in this process, or as a task that a worker process does."""

from __future__ import annotations

import hashlib
import importlib
import platform
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import torch

from prism_nb.core.errors import PrismError
from prism_nb.core.lock import LeaseHeldError
from prism_nb.core.manifest import DECISIVE_PACKAGES, package_version
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit, WriteResult

_POLL_SECONDS = 2.0  # between attempts at units that other processes work on

UnitFunction = Callable[[Run, Unit, OnEvent], WriteResult | None]


@dataclass(frozen=True)
class Outcome:
    """Result of a call on a stage's units.

    Attributes:
        skipped: Number of units that were done before.
        made: Number of units that this call has done.
        seconds: Duration of the call.
    """

    skipped: int
    made: int
    seconds: float


def import_function(name: str) -> Callable[..., Any]:
    """Return the function named `module:function`."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


# -- units one after another ------------------------------------------------------------------


def run_units_sequentially(
    run: Run, units: Sequence[Unit], run_unit: str, on_event: OnEvent
) -> Outcome:
    """Do all units that are not done; wait for those of other processes.

    Args:
        run: The run.
        units: Units of one stage.
        run_unit: `module:function` of a `UnitFunction`. A callable that it returns writes the
            unit's files, in the background while the next unit is computed.
        on_event: Called with every event.

    Raises:
        PrismError: A unit failed. Finished units stay.
    """
    start, remaining = time.monotonic(), list(units)
    with _BackgroundWriter() as writer:
        worker = _SequentialWorker(run, import_function(run_unit), writer, on_event)
        while remaining:
            held = [unit for unit in remaining if not worker.try_unit(unit)]
            if len(held) == len(remaining):
                time.sleep(_POLL_SECONDS)
            remaining = held
    return Outcome(len(units) - worker.made, worker.made, time.monotonic() - start)


class _SequentialWorker:
    """Does units under their leases; `made` counts the units done here."""

    def __init__(
        self, run: Run, run_unit: UnitFunction, writer: _BackgroundWriter, on_event: OnEvent
    ) -> None:
        self._run, self._run_unit, self._writer, self._on_event = run, run_unit, writer, on_event
        self._reported_held: set[str] = set()
        self.made = 0

    def try_unit(self, unit: Unit) -> bool:
        """Do a unit unless it is done; return False where another process holds it."""
        if self._is_done(unit):
            return True
        self._writer.raise_failure()
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
        self._writer.submit(partial(self._finish, unit, start, write, kept_lease))
        self.made += 1
        return True

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


class _BackgroundWriter:
    """Runs calls one after another in a thread; submitted calls finish even if the caller fails.

    A call's failure is raised at the next submission, or at exit.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._thread.shutdown()
        failure = self._last.exception() if self._last is not None else None
        if failure is None or failure is error:
            return
        if error is None:
            raise failure
        error.add_note(f"besides, the unit before could not be written: {failure}")

    def raise_failure(self) -> None:
        """Raise the failure of the last call, if it has failed already."""
        if self._last is not None and self._last.done():
            self._last.result()

    def submit(self, call: Callable[[], None]) -> None:
        """Queue a call, wait for the one before it, and raise that one's failure."""
        before, self._last = self._last, self._thread.submit(call)
        if before is not None:
            before.result()


# -- tasks for other processes ----------------------------------------------------------------


@dataclass(frozen=True)
class WorkerTask:
    """Units for one worker.

    Attributes:
        run: Path of the run, the same on every machine.
        settings: The run's settings as plain values.
        units: Units of one stage.
        run_unit: `module:function` of a `UnitFunction`.
        versions: `worker_versions` of the driver.
    """

    run: str
    settings: dict[str, Any]
    units: tuple[Unit, ...]
    run_unit: str
    versions: dict[str, str]

    @classmethod
    def of(cls, run: Run, units: Sequence[Unit], run_unit: str) -> WorkerTask:
        """Return a task for some units of a run."""
        path, settings = str(run.path.absolute()), run.settings.plain()
        return cls(path, settings, tuple(units), run_unit, worker_versions())


@dataclass(frozen=True)
class TaskResult:
    """Result of a task.

    Attributes:
        made: Number of units that the worker has done.
        error: Message of the failure that ended the task; empty if it succeeded.
    """

    made: int
    error: str = ""


def run_task(task: WorkerTask) -> TaskResult:
    """Do a task in this process; its events go to the run's event log."""
    try:
        check_same_versions(task.versions, where=f"a worker on {socket.gethostname()}")
        run = Run(Path(task.run), Settings.parse(task.settings, where=task.run))
        torch.set_num_threads(threads_per_worker(run.settings))

        def log_event(event: dict[str, Any]) -> None:
            if event["event"] != "unit_skipped":  # which the driver logs
                run.events.append(task.units[0].stage, **event)

        return TaskResult(run_units_sequentially(run, task.units, task.run_unit, log_event).made)
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


# -- versions ---------------------------------------------------------------------------------

_PACKAGE = Path(__file__).parents[1]


def worker_versions() -> dict[str, str]:
    """Return the versions that decide results: the kit's source, Python and libraries."""
    libraries = {name: package_version(name) for name in DECISIVE_PACKAGES}
    return {"prism-nb": _source_hash(), "python": platform.python_version(), **libraries}


def check_same_versions(driver: dict[str, str], *, where: str) -> None:
    """Check this process's versions against its driver's.

    Args:
        driver: `worker_versions` of the driver.
        where: Name of this process in the message.

    Raises:
        PrismError: Versions differ; each is named.
    """
    differing = [
        f"{name} {mine} there, {driver.get(name, 'none')} with the driver"
        for name, mine in worker_versions().items()
        if mine != driver.get(name)
    ]
    if differing:
        raise PrismError(
            f"{where} has other versions than the run's driver: {'; '.join(differing)}. Images of "
            "different versions may differ: install the same ones on every machine, end jobs that "
            "still wait from before an upgrade, and run the same command again"
        )


@cache
def _source_hash() -> str:
    """Return the kit's version and a digest of its modules, which may change between versions."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        name = path.relative_to(_PACKAGE).as_posix()
        digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return f"{package_version('prism-nb')} (source {digest.hexdigest()[:12]})"
