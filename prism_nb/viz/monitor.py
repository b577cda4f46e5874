"""State of a run's synthesis, read from its files, and the process that executes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.data.image_io import DECODE_ERRORS, encode_image
from prism_nb.execution import pipeline
from prism_nb.execution.cost import seconds_left, unit_costs
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

STAGE = "synthesis"
LossCurves = dict[str, list[tuple[int, float]]]  # (step, unweighted value) by the term's name

_KEPT = "Finished units are kept; Resume continues"
_NO_MESSAGE = "the process ended without a message: killed, or out of memory"


@dataclass(frozen=True)
class RunState:
    """Progress of the synthesis.

    Attributes:
        units: Number of units.
        done: Number of finished units.
        driver: Process that holds the stage's lock; None if there is none.
        ended: How the last driver ended: `complete`, `stopped`, `failed`, or empty.
        reason: Why it failed.
        waiting: What the driver waits for, such as a queue; empty if it does not wait.
        unit: The unit that started last; empty before any.
        step: Steps done of that unit.
        steps: Steps of its schedule; 0 before its first report.
        losses_of: The newest unit that reported losses; empty before any.
        losses: Its losses.
        seconds_left: Estimated time for the unfinished units; None before any measurement.
    """

    units: int
    done: int
    driver: Owner | None = None
    ended: str = ""
    reason: str = ""
    waiting: str = ""
    unit: str = ""
    step: int = 0
    steps: int = 0
    losses_of: str = ""
    losses: LossCurves = field(default_factory=dict)
    seconds_left: float | None = None

    @property
    def missing(self) -> int:
        """Number of unfinished units."""
        return self.units - self.done

    @property
    def status(self) -> str:
        """One of `running`, `waiting`, `finished`, `stopped`, `failed` and `idle`."""
        if self.driver is not None:
            return "waiting" if self.waiting else "running"
        if not self.missing:
            return "finished"
        return self.ended if self.ended in {"stopped", "failed"} else "idle"

    @property
    def message(self) -> str:
        """The status in a sentence or two."""
        if self.driver is not None:
            wait = f" Waiting: {self.waiting}." if self.waiting else ""
            return f"Running in {_where(self.driver)}.{wait}"
        return {
            "finished": f"Finished: all {self.units} units are done.",
            "stopped": f"Stopped. {_KEPT}.",
            "failed": f"Failed: {self.reason or 'for an unknown reason'}. {_KEPT}.",
            "idle": f"Not running. {_KEPT}." if self.done else "No units yet: press Start.",
        }[self.status]


def _where(driver: Owner) -> str:
    if not driver.is_here:
        return f"process {driver.process} on {driver.host}; it can be stopped only there"
    if driver.process == os.getpid():
        return "this notebook's kernel; interrupt the kernel to stop it"
    return f"process {driver.process} on this machine"


@dataclass
class _UnitAtWork:
    """A unit in progress: its start, in seconds since 1970, and its steps."""

    started: float
    step: int = 0
    steps: int = 0

    @property
    def share(self) -> float:
        """Share of its steps that is done, in [0, 1]."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0


class RunTracker:
    """Reads a run's state again and again, and each time only what is new.

    Markers are read at first and whenever a driver starts or ends. In between, its events name
    the finished units. Files are not hashed: `pipeline.check` does that.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._position = run, 0
        self._driver: Owner | None = None
        self._units: dict[str, Unit] = {}
        self._costs: dict[str, float] = {}
        self._done: set[str] = set()
        self._at_work: dict[str, _UnitAtWork] = {}
        self._seconds: dict[str, float] = {}  # of units that ended
        self._ended, self._reason, self._waiting = "", "", ""
        self._unit, self._losses_of, self._losses = "", "", LossCurves()
        self._time = 0.0  # of the last event, in seconds since 1970

    def read(self) -> RunState:
        """Return the state now.

        Raises:
            PrismError: The units cannot be listed, as when the dataset is gone.
        """
        first = not self._units
        if first:
            units = {unit.name: unit for unit in pipeline.stage_units(self._run, STAGE)}
            self._costs = unit_costs(self._run, list(units.values()))
            self._units = units
        driver = self._run.locks.driver(STAGE)  # before its events: the last ones are never missed
        events, self._position = self._run.events.read_after(STAGE, self._position)
        for event in events:
            self._add(event)
        if first or driver != self._driver:
            self._driver = driver
            self._done = self._finished_units()
        if driver is None and self._at_work and not self._ended:
            self._ended, self._reason, self._at_work = "failed", _NO_MESSAGE, {}
        work = self._at_work.get(self._unit, _UnitAtWork(0.0))
        return RunState(
            units=len(self._units),
            done=len(self._done),
            driver=driver,
            ended=self._ended,
            reason=self._reason,
            waiting=self._waiting,
            unit=self._unit,
            step=work.step,
            steps=work.steps,
            losses_of=self._losses_of,
            losses=self._losses,
            seconds_left=self._seconds_left(),
        )

    def _finished_units(self) -> set[str]:
        states = (self._run.units.state(unit, verify_hashes=False) for unit in self._units.values())
        return {state.unit.name for state in states if state.state == "done"}

    def _add(self, event: dict[str, Any]) -> None:
        """Take note of an event; unknown kinds and units of other settings change nothing."""
        kind, unit, self._time = event["event"], event.get("unit"), event.get("time", self._time)
        self._waiting = event["why"] if kind == "waiting" else ""
        if kind == "start":
            self._ended, self._at_work = "", {}
        elif kind in {"complete", "stopped", "failed"}:
            self._ended, self._reason, self._at_work = kind, str(event.get("reason", "")), {}
        elif unit not in self._units:
            return
        elif kind == "unit_start":
            self._begin(unit)
        elif kind == "step":
            self._step(unit, event)
        elif kind in {"unit_end", "unit_skipped"}:
            self._done.add(unit)
            self._at_work.pop(unit, None)
            if "seconds" in event:
                self._seconds[unit] = event["seconds"]

    def _begin(self, unit: str) -> None:
        self._done.discard(unit)
        self._at_work[unit] = _UnitAtWork(self._time)
        self._unit = unit
        if unit == self._losses_of:
            self._losses = {}

    def _step(self, unit: str, event: dict[str, Any]) -> None:
        if unit not in self._at_work:  # a worker that outlives its driver
            self._begin(unit)
        work = self._at_work[unit]
        work.step, work.steps = event["step"], event["steps"]
        losses = event.get("losses", {})
        if unit == self._unit and losses:
            if unit != self._losses_of:
                self._losses_of, self._losses = unit, {}
            for term, value in losses.items():
                self._losses.setdefault(term, []).append((work.step, value))

    def _seconds_left(self) -> float | None:
        progress = {n: (1.0, taken) for n, taken in self._seconds.items() if n in self._done}
        for name, at_work in self._at_work.items():
            progress[name] = (at_work.share, self._time - at_work.started)
        unknown = self._done - progress.keys()  # done in an unknown time
        costs = {name: cost for name, cost in self._costs.items() if name not in unknown}
        left = seconds_left(costs, progress)
        workers = max(1, len(self._at_work))
        return None if left is None else left / workers  # workers share what is left


# -- the process -----------------------------------------------------------------------------


def start_stage(run: Run) -> subprocess.Popen[bytes]:
    """Do the unfinished units in a new process, which outlives this one and writes to `logs/`.

    Raises:
        PrismError: The run cannot be written to.
    """
    path = log_path(run)
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, STAGE]
    try:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # a process that still writes to the old log is not disturbed
        with path.open("xb") as log:
            return subprocess.Popen(  # noqa: S603 (our own module)
                [*command, "--runs-dir", str(run.path.absolute().parent)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise PrismError(f"cannot start: {error.strerror or error} ({path})") from error


def can_be_stopped(driver: Owner | None) -> bool:
    """Return whether this process can stop a driver: on this machine, and not this kernel."""
    return driver is not None and driver.is_here and driver.process != os.getpid()


def stop_process(driver: Owner) -> None:
    """Interrupt a driver as Ctrl-C does: finished units stay, the one at work is given up.

    Raises:
        PrismError: The process belongs to another user.
    """
    try:
        os.kill(driver.process, signal.SIGINT)
    except ProcessLookupError:
        return  # it has ended meanwhile
    except PermissionError as error:
        raise PrismError(
            f"process {driver.process} is another user's ({error.strerror}); ask them to stop it"
        ) from None


def log_path(run: Run) -> Path:
    """Return the file with the output of a process that `start_stage` started."""
    return run.file(f"logs/{STAGE}.log")


def last_log_line(run: Run) -> str:
    """Return the last line of that file that is not blank; empty if there is none."""
    try:
        text = log_path(run).read_bytes()[-2_000:].decode(errors="replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


# -- previews --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreviewSequence:
    """Previews of a unit's images over its steps.

    Attributes:
        folder: The folder of the pictures.
        unit: The unit's name.
        steps: Steps of its schedule.
        images: Class and index of each image of a picture, from left to right.
        schedule: The unit's drawn teachers.
        preview_steps: Steps with a picture, ascending, at least one.
    """

    folder: Path
    unit: str
    steps: int
    images: tuple[tuple[int, int], ...]
    schedule: TeacherSchedule
    preview_steps: tuple[int, ...]

    def tiles(self, step: int) -> list[bytes]:
        """Return each image of a picture as PNG; none if the picture is gone or damaged."""
        try:
            with Image.open(self.folder / f"{step:06d}.png") as strip:
                side = strip.height
                lefts = range(0, side * len(self.images), side)
                return [_png(strip.crop((left, 0, left + side, side))) for left in lefts]
        except DECODE_ERRORS:
            return []

    def teachers_at(self, step: int) -> tuple[str, ...]:
        """Return the BN teachers of the step before a picture, or of the first step."""
        return self.schedule.bn_teachers_at(max(0, step - 1))

    def logit_teachers_at(self, step: int) -> tuple[str, ...]:
        """Return the networks whose logits counted in that step."""
        return self.schedule.logit_teachers_at(max(0, step - 1))


def load_previews(run: Run) -> list[PreviewSequence]:
    """Return the preview sequences of a run, at most one per method, the newest first."""
    found = [_sequence(about) for about in run.path.glob("previews/*/*/about.json")]
    return sorted((each for each in found if each is not None), key=_changed, reverse=True)


def _changed(sequence: PreviewSequence) -> float:
    try:
        return sequence.folder.stat().st_mtime
    except OSError:
        return 0.0


def _sequence(about: Path) -> PreviewSequence | None:
    """Return a sequence with at least one picture; None if there is none, or it is damaged."""
    values: dict[str, Any] = fileio.read_record(about)
    taken = sorted(int(path.stem) for path in about.parent.glob("*.png") if path.stem.isdecimal())
    try:
        groups = tuple(tuple(map(str, group)) for group in values["bn_teachers"])
        schedule = TeacherSchedule(
            int(values["resample_every"]), groups, tuple(values["logit_teachers"])
        )
        images = tuple((int(c), int(image_index)) for c, image_index in values["images"])
        unit, steps = str(values["unit"]), int(values["steps"])
    except (KeyError, TypeError, ValueError):
        return None
    if not taken or not groups or schedule.resample_every < 1:
        return None
    return PreviewSequence(about.parent, unit, steps, images, schedule, tuple(taken))


def _png(image: Image.Image) -> bytes:
    return encode_image(image.convert("RGB"))
