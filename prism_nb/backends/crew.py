"""What every backend with workers shares: a worker's task, its report, and news from its log."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from prism_nb.backends.here import run_here
from prism_nb.backends.versions import require_same, versions
from prism_nb.backends.work import OnEvent
from prism_nb.errors import PrismError, UsageError
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.units import Unit

_LOOK = 0.5  # seconds between two looks at the event log
_ERRORS: dict[str, type[PrismError]] = {"PrismError": PrismError, "UsageError": UsageError}


@dataclass(frozen=True)
class Task:
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
    def of(cls, run: Run, units: Sequence[Unit], work: str) -> Task:
        """Return a task that does some units of a run."""
        path, settings = str(run.path.absolute()), run.settings.plain()
        return cls(path, settings, tuple(units), work, versions())


@dataclass(frozen=True)
class Report:
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


def work_off(task: Task) -> Report:
    """Do a task in a worker; what happens stands in the run's event log."""
    try:
        require_same(task.versions, where=f"a worker on {socket.gethostname()}")
        return Report(_do(task))
    except PrismError as error:
        return Report(0, str(error), type(error).__name__)
    except Exception as error:
        return Report(0, f"{type(error).__name__}: {error}", "PrismError")


def _do(task: Task) -> int:
    """Do a task's units, and return how many this worker has done itself."""
    run = Run(Path(task.run), Settings.parse(task.settings, where=task.run))
    _limit_threads(run.settings)

    def emit(event: dict[str, Any]) -> None:
        if event["event"] != "kept":  # the driver knows
            run.event(task.units[0].stage, **event)

    return run_here(run, task.units, task.work, emit).made


def _limit_threads(settings: Settings) -> None:
    import torch

    torch.set_num_threads(1 if settings.threads == "auto" else settings.threads)


class Followed:
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
