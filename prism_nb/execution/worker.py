"""What a unit's work is, and how it is named."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from prism_nb import __version__
from prism_nb.core.device import num_threads
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import LeaseHeldError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit, WriteResult, slug

UnitFunction = Callable[[Run, Unit, OnEvent], WriteResult | None]


@dataclass(frozen=True)
class Outcome:
    """What a call did: units found done, units made now, and the seconds that took."""

    kept: int
    made: int
    seconds: float


@dataclass(frozen=True)
class UnitSplitter:
    """How units that are too large for one worker are cut up, and shared among several.

    Attributes:
        cut: `module:function` of a run, a unit and a number; it returns at most so many units,
            which leave files that spare the unit itself most of its work.
        work: `module:function` of a `Work` that does one of those.
    """

    cut: str
    work: str


def import_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; its module is imported only now."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


_LOOK = 0.5  # seconds between two looks at the event log
_ERRORS: dict[str, type[PrismError]] = {"PrismError": PrismError, "UsageError": UsageError}


@dataclass(frozen=True)
class WorkerTask:
    """Units for one worker; small, since it travels.

    Attributes:
        run: Path of the run, where the worker finds it too.
        settings: The run's, as plain values.
        units: What to do.
        work: `module:function` of a `Work`.
        versions: The driver's; a worker with others does nothing.
    """

    run: str
    settings: dict[str, Any]
    units: tuple[Unit, ...]
    work: str
    versions: dict[str, str]

    @classmethod
    def of(cls, run: Run, units: Sequence[Unit], work: str) -> WorkerTask:
        """Return a task that does some units of a run."""
        path, settings = str(run.path.absolute()), run.settings.plain()
        return cls(path, settings, tuple(units), work, worker_versions())


@dataclass(frozen=True)
class TaskResult:
    """What became of a task.

    Attributes:
        made: Units that it has done itself.
        error: What went wrong; empty where nothing did.
        kind: Name of the error's class.
    """

    made: int
    error: str = ""
    kind: str = ""

    def require(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error:
            raise _ERRORS.get(self.kind, PrismError)(self.error)


def run_task(task: WorkerTask) -> TaskResult:
    """Do a task in a worker; what happens stands in the run's event log."""
    try:
        check_same_versions(task.versions, where=f"a worker on {socket.gethostname()}")
        return TaskResult(_do(task))
    except PrismError as error:
        return TaskResult(0, str(error), type(error).__name__)
    except Exception as error:
        return TaskResult(0, f"{type(error).__name__}: {error}", "PrismError")


def _do(task: WorkerTask) -> int:
    """Do a task's units, and return how many this worker has done itself."""
    run = Run(Path(task.run), Settings.parse(task.settings, where=task.run))
    _limit_threads(run.settings)

    def emit(event: dict[str, Any]) -> None:
        if event["event"] != "kept":  # the driver knows
            run.event(task.units[0].stage, **event)

    return run_units_sequentially(run, task.units, task.work, emit).made


def _limit_threads(settings: Settings) -> None:
    import torch

    torch.set_num_threads(1 if settings.threads == "auto" else settings.threads)


class EventTail:
    """Passes on what workers write to a stage's event log, from the moment it is entered.

    Args:
        run: The run.
        stage: The stage.
        tell: Given every event.
    """

    def __init__(self, run: Run, stage: str, tell: OnEvent) -> None:
        self._run, self._stage, self._tell = run, stage, tell
        self._position = run.events_after(stage, 0)[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK):
            self._look()

    def _look(self) -> None:
        events, self._position = self._run.events_after(self._stage, self._position)
        for event in events:
            self._tell(event)


_WAIT = 2.0  # seconds between two looks at a unit that another process works on


def run_backend_process(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in this process, as `run_units` does."""

    def emit(event: dict[str, Any]) -> None:
        run.event(units[0].stage, **event)
        on_event(event)

    threads = run.settings.threads
    with num_threads(None if threads == "auto" else threads):
        return run_units_sequentially(run, units, work, emit)


def run_units_sequentially(run: Run, units: Sequence[Unit], work: str, emit: OnEvent) -> Outcome:
    """Do the units that are not done, and say so to `emit` alone.

    A unit that another process works on is waited for, and done here if that process dies.
    """
    begin, left = time.monotonic(), list(units)
    with _Background() as background:
        worker = _Worker(run, import_function(work), background, emit)
        while left:
            held = [unit for unit in left if not worker.take(unit)]
            if len(held) == len(left):
                time.sleep(_WAIT)
            left = held
    return Outcome(len(units) - worker.made, worker.made, time.monotonic() - begin)


class _Worker:
    """Takes units in turn; `made` counts those that it has done itself."""

    def __init__(self, run: Run, do: UnitFunction, background: _Background, emit: OnEvent) -> None:
        self._run, self._do, self._background, self._emit = run, do, background, emit
        self._told: set[str] = set()
        self.made = 0

    def take(self, unit: Unit) -> bool:
        """Do a unit, unless it is done; return whether that is settled, or somebody is at it."""
        if self._run.inspect(unit).state == "done":
            self._emit({"event": "unit_skipped", **unit.event_fields})
            return True
        self._background.check()
        with ExitStack() as lease:
            try:
                lease.enter_context(self._run.hold(unit))
            except LeaseHeldError as error:
                self._tell(unit, error)
                return False
            if self._run.inspect(unit).state == "done":  # by whoever held it until now
                self._emit({"event": "unit_skipped", **unit.event_fields})
                return True
            self._emit({"event": "unit_start", **unit.event_fields})
            start = time.monotonic()
            finish = self._do(self._run, unit, self._emit)
            # From here the lease is the background's to give back, once the files are written.
            kept = lease.pop_all()
        self._background.do(partial(self._end, unit, start, finish, kept))
        self.made += 1
        return True

    def _end(self, unit: Unit, start: float, finish: WriteResult | None, lease: ExitStack) -> None:
        with lease:
            if finish is not None:
                self._run.require_held(unit)
                finish()
            if self._run.marker(unit) is None:
                raise PrismError(f"the work on unit {unit.name} left no marker")
        self._emit({"event": "unit_end", **unit.event_fields, "seconds": time.monotonic() - start})

    def _tell(self, unit: Unit, held: LeaseHeldError) -> None:
        if unit.name not in self._told:
            self._told.add(unit.name)
            self._emit({"event": "unit_held", "unit": unit.name, "owner": str(held.owner)})


class _Background:
    """Does one thing at a time beside the caller, who hears of its failure at the next, or at exit.

    Whatever ends the caller's work, what was handed over before is finished.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._thread.shutdown()
        failed = self._last.exception() if self._last is not None else None
        if failed is None or failed is error:
            return
        if error is None:
            raise failed
        error.add_note(f"beside that, the unit before could not be written: {failed}")

    def check(self) -> None:
        """Raise the failure of the last work, if it has failed already."""
        if self._last is not None and self._last.done():
            self._last.result()

    def do(self, work: Callable[[], None]) -> None:
        """Begin this work, after that before it, whose failure is raised."""
        before, self._last = self._last, self._thread.submit(work)
        if before is not None:
            before.result()


def log_name(unit: Unit) -> str:
    """Return the path of a unit's log, relative to the run."""
    return f"logs/{unit.stage}/{slug(unit.name)}.log"


@contextmanager
def redirect_output(path: Path) -> Iterator[None]:
    """Append to a file what this process says, on both streams and from any library.

    The streams are turned where the system keeps them, so that what compiled code and child
    processes print is caught too. For a worker's only thread, since all threads share them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log, _turned(1, log.fileno()), _turned(2, log.fileno()):
        yield


@contextmanager
def _turned(stream: int, target: int) -> Iterator[None]:
    """Let a stream of this process lead to another file, and put it back afterwards."""
    _flush()
    before = os.dup(stream)
    os.dup2(target, stream)
    try:
        yield
    finally:
        _flush()
        os.dup2(before, stream)
        os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


_PACKAGE = Path(__file__).parents[1]
_DECIDING = ("timm", "torchvision")  # beside PyTorch: networks, and how images are changed


def worker_versions() -> dict[str, str]:
    """Return what of this process decides results: the kit, its sources, Python and libraries."""
    import torch

    return {
        "prism-nb": __version__,
        "sources of prism-nb": _sources(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in _DECIDING},
    }


def check_same_versions(driver: dict[str, str], *, where: str) -> None:
    """Check this process's versions against its driver's.

    Args:
        driver: The driver's `versions`.
        where: Who this is, for the message.

    Raises:
        PrismError: Some differ; each is named.
    """
    mine = worker_versions()
    differing = [
        f"{name} {mine.get(name, 'none')} there, {driver.get(name, 'none')} with the driver"
        for name in {**mine, **driver}
        if mine.get(name) != driver.get(name)
    ]
    if differing:
        raise PrismError(
            f"{where} has other versions than the run's driver: {'; '.join(differing)}. Images of "
            "different versions may differ: install the same ones on every machine, end jobs that "
            "still wait from before an upgrade, and run the same command again"
        )


@cache
def _sources() -> str:
    """Return a digest of the kit's modules: two checkouts may bear one version."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(
            f"{path.relative_to(_PACKAGE).as_posix()}\n{len(content)}\n".encode() + content
        )
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
