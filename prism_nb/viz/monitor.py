"""What a run's files say of the synthesis at a moment; how it is started, stopped and followed."""

from __future__ import annotations

import html
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.manifest import UnitState, newer_version_message
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.data.image_io import DECODE_ERRORS, encode_image
from prism_nb.execution import pipeline
from prism_nb.execution.cost import UnitCost, images_per_minute, monitor_seconds_left, unit_cost
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from prism_nb.viz.style import colour_at, dash_of

STAGE = "synthesis"

MOST = 64  # units whose losses are kept
Terms = dict[str, list[tuple[int, float]]]  # by the term's name: (step, value)


class Curves:
    """The losses by term of the units that report; workers' reports may come in any order.

    Attributes:
        by_unit: Each unit's losses, the unit that was heard of last standing last.
    """

    def __init__(self) -> None:
        self.by_unit: dict[str, Terms] = {}
        self._steps: dict[str, int] = {}

    def begin(self, unit: str) -> None:
        """Forget what a unit reported before it began anew."""
        self.by_unit.pop(unit, None)

    def add(
        self, unit: str, step: int, losses: Mapping[str, float], at_work: Collection[str]
    ) -> None:
        """Add a report; a step that is not later than the last one begins a new curve.

        Of `MOST` units the losses are kept. One more takes the place of a unit that has ended;
        where all are at work it has none.

        Args:
            unit: The unit.
            step: Steps that it has done.
            losses: The terms' values.
            at_work: Units whose losses are still wanted.
        """
        terms = self.by_unit.pop(unit, None)
        if terms is None and not self._make_room(at_work):
            return
        if terms is None or step <= self._steps[unit]:
            terms = {}
        for term, value in losses.items():
            terms.setdefault(term, []).append((step, value))
        self.by_unit[unit], self._steps[unit] = terms, step

    def _make_room(self, at_work: Collection[str]) -> bool:
        """Let go of the unit that was heard of longest ago, if there are many and it has ended."""
        if len(self.by_unit) < MOST:
            return True
        ended = next((unit for unit in self.by_unit if unit not in at_work), None)
        if ended is not None:
            del self.by_unit[ended], self._steps[ended]
        return ended is not None


_TAIL = 2_000  # bytes of a log's end that are read


@dataclass(frozen=True)
class StageProcess:
    """A process that holds the stage.

    Attributes:
        process: Its number.
        host: Its machine's name.
    """

    process: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()

    @property
    def can_be_stopped(self) -> bool:
        """Whether it can be stopped from this process: a kernel hears nothing while it works."""
        return self.is_here and self.process != os.getpid()

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does: finished units stay, the one at work is given up.

        Raises:
            PrismError: It is elsewhere, or someone else's.
        """
        if not self.is_here:
            raise PrismError(
                f"process {self.process} drives the run on {self.host}, not "
                "on this machine; stop it there"
            )
        try:
            os.kill(self.process, signal.SIGINT)
        except ProcessLookupError:
            return  # it has ended meanwhile
        except PermissionError as error:
            raise PrismError(
                f"process {self.process} is another user's ({error.strerror}); ask them to stop it"
            ) from None


def running_driver(run: Run) -> StageProcess | None:
    """Return who holds the stage; None where nobody does."""
    owner = run.driver(STAGE)
    if owner is None:
        return None
    # The number of a process in another container of this machine means nothing here.
    apart = owner.host == socket.gethostname() and not owner.is_here
    return StageProcess(
        owner.process, f"another container of {owner.host}" if apart else owner.host
    )


def start_stage(run: Run) -> subprocess.Popen[bytes]:
    """Do what is left in a process of its own, which outlives this one; it writes `logs/`.

    Raises:
        PrismError: The run cannot be written to.
    """
    path = log_path(run)
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, STAGE]
    try:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # whoever still writes to the old one keeps that
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


def log_path(run: Run) -> Path:
    """Return where a process that was started here says what it has to say."""
    return run.file(f"logs/{STAGE}.log")


def last_log_line(run: Run) -> str:
    """Return the last line of the log; empty where there is none."""
    try:
        text = log_path(run).read_bytes()[-_TAIL:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


_HASHING = 0.5  # seconds of one look; a look holds back the buttons as long


class RunTracker:
    """Reads a run's files again and again; only what is new or changed is read anew.

    While someone drives the run its events say what is done, else the markers do.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._position, self._log = run, 0, EventLog()
        self._units: dict[str, Unit] = {}
        self._costs: dict[str, UnitCost] = {}
        self._markers = MarkerScan(run, ())
        self._driver: StageProcess | None = None

    def read(self) -> RunState:
        """Return the state now.

        Raises:
            PrismError: The units cannot be listed, as where the dataset is gone.
        """
        driver = running_driver(self._run)
        events, self._position = self._run.events_after(STAGE, self._position)
        for event in events:
            self._log.take(event)
        said = self._log.pop_said()
        if not self._units or driver != self._driver:
            self._look_through()  # younger than the events, which therefore count no more
        else:
            for name, done in said.items():
                self._markers.believe(name, done=done, seconds=self._log.made.get(name, 0.0))
        self._driver = driver
        if driver is None:
            self._look_again()
        return self._state(driver, time.time())

    def _look_through(self) -> None:
        """List the units, and which of them are done by their markers."""
        run = self._run
        self._units = {unit.name: unit for unit in pipeline.stage_units(run, STAGE)}
        self._costs = {name: unit_cost(run, unit) for name, unit in self._units.items()}
        self._markers = MarkerScan(run, self._units.values())
        self._markers.read()

    def _look_again(self) -> None:
        """See what has changed where nobody says so; what seems complete is gone through."""
        self._markers.read()
        if len(self._markers.done) == len(self._units):
            self._markers.hash_some(_HASHING)

    def _state(self, driver: StageProcess | None, now: float) -> RunState:
        log = self._log
        at_work = {name: work for name, work in log.at_work.items() if name in self._units}
        name, work = next(reversed(at_work.items()), ("", None))
        age = None if log.last is None else max(0.0, now - log.last)
        return RunState(
            units=len(self._units),
            done=len(self._markers.done),
            unhashed=0 if driver else self._markers.unhashed,
            at_work=name,
            step=work.step if work else 0,
            steps=work.steps if work else 0,
            seconds_left=self._seconds_left(),
            images_per_minute=self._throughput(),
            curves=self._curves(name),
            driver=driver,
            started=log.started,
            host=log.host,
            closing=log.closing,
            reason=log.reason,
            age=age,
            notes=(*self._spoilt(), *self._strange(), *self._waits(driver)),
        )

    def _seconds_left(self) -> float | None:
        done = self._markers.done
        taken = {name: (1.0, seconds) for name, seconds in done.items()}
        for name, work in self._log.at_work.items():
            if name in self._units and name not in done and work.share:
                taken[name] = (work.share, max(0.0, work.told - work.begun))
        return monitor_seconds_left(self._costs, done.keys(), taken)

    def _throughput(self) -> float | None:
        log = self._log
        if log.working is None or log.last is None:
            return None
        made = [name for name in log.made if name in self._units]
        shares = {name: w.share for name, w in log.at_work.items() if name in self._units}
        return images_per_minute(self._costs, made, shares, log.last - log.working)

    def _curves(self, first: str) -> tuple[Curve, ...]:
        """Return the losses of every unit that has some, the first unit's last."""
        found = self._log.curves.by_unit
        names = [name for name in found if name in self._units and name != first]
        names += [first] if first in found else []
        return tuple(Curve(name, self._steps_of(name), dict(found[name])) for name in names)

    def _steps_of(self, name: str) -> int:
        return self._run.settings.recipe_of(self._units[name].params["method"]).iterations

    def _waits(self, driver: StageProcess | None) -> list[str]:
        """Say what a driver that is at work waits for."""
        return [f"Its driver says: {self._log.waiting}."] if driver and self._log.waiting else []

    def _spoilt(self) -> list[str]:
        """Say which finished units are to be made again."""
        spoilt = self._markers.spoilt
        if not spoilt:
            return []
        many, first = len(spoilt), spoilt[0]
        what = "A finished unit is" if many == 1 else f"{many} finished units are"
        which = first.unit.name if many == 1 else f"first {first.unit.name}"
        return [f"{what} to be made again: {which} ({first.state}: {first.reason})."]

    def _strange(self) -> list[str]:
        """Say what of the log belongs to something else."""
        said = []
        others = sorted(self._log.named - self._units.keys())
        if others:
            said.append(
                f"The log also names {len(others)} units that these settings do not have "
                f"(first {others[0]}); they are left out."
            )
        if self._log.unread:
            said.append(f"{self._log.unread} events cannot be read and are left out.")
        return said


_CLOSING = {"complete", "stopped", "failed"}


@dataclass
class UnitProgress:
    """A unit that has begun and not ended.

    Attributes:
        begun: When, in seconds since 1970 by the driver's clock.
        step: Steps done.
        steps: Steps of its schedule; 0 until its first report.
        told: When it was last heard of.
    """

    begun: float
    step: int = 0
    steps: int = 0
    told: float = 0.0

    @property
    def share(self) -> float:
        """The share of its steps that is done, in [0, 1]."""
        return min(1.0, max(0.0, self.step / self.steps)) if self.steps else 0.0


class EventLog:
    """A fold over events; what it cannot read it leaves out and counts.

    Attributes:
        at_work: Units that have begun and not ended since the latest start.
        made: Seconds that each unit made since the latest start has taken.
        said: Whether each unit of which something was said since `pop_said` is done.
        named: Every unit that was named at all.
        started: When the latest driver began; None before the first.
        working: When its first unit began; None before that.
        host: Where that driver was, if it said so.
        closing: The event that it ended with: `complete`, `stopped`, `failed`, or nothing.
        reason: Why it failed, in its own words.
        waiting: What the driver waits for, in its own words, as long as no unit moves.
        curves: The losses of each unit that reports.
        last: When the latest event was written.
        unread: Events that make no sense to this version of the kit.
    """

    def __init__(self) -> None:
        self.at_work: dict[str, UnitProgress] = {}
        self.made: dict[str, float] = {}
        self.said: dict[str, bool] = {}
        self.named: set[str] = set()
        self.started: float | None = None
        self.working: float | None = None
        self.host, self.closing, self.reason, self.waiting = "", "", "", ""
        self.curves = Curves()
        self.last: float | None = None
        self.unread = 0
        self._read = {
            "start": self._start,
            "begin": self._begin,
            "step": self._step,
            "end": self._end,
            "kept": self._keep,
            "waiting": self._wait,
        }

    def take(self, event: dict[str, Any]) -> None:
        """Take note of one event; kinds that are not known tell nothing."""
        kind = event.get("event")
        try:
            time = _finite(event["time"])
            self.waiting = ""
            if kind in _CLOSING:
                self._close(event)
            elif kind in self._read:
                self._read[str(kind)](event, time)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            self.unread += 1
            return
        self.last = time

    def pop_said(self) -> dict[str, bool]:
        """Return which units were said to be done, or not to be, since the last call."""
        said, self.said = self.said, {}
        return said

    def _start(self, event: dict[str, Any], time: float) -> None:
        self.started, self.host, self.closing, self.reason = time, str(event["host"]), "", ""
        self.at_work, self.made, self.working = {}, {}, None

    def _begin(self, event: dict[str, Any], time: float) -> None:
        unit = self._name(event)
        self.at_work.pop(unit, None)  # so that the latest stands last
        self.at_work[unit] = UnitProgress(time, told=time)
        self.curves.begin(unit)
        self.said[unit] = False
        self.working = time if self.working is None else self.working
        self.closing = ""

    def _step(self, event: dict[str, Any], time: float) -> None:
        unit, step, steps = self._name(event), int(event["step"]), int(event["steps"])
        losses = {str(term): float(value) for term, value in event["losses"].items()}
        work = self.at_work.setdefault(unit, UnitProgress(time))
        work.step, work.steps, work.told = step, steps, time
        self.curves.add(unit, step, losses, self.at_work)

    def _end(self, event: dict[str, Any], _: float) -> None:
        unit = self._name(event)
        self.made[unit] = _finite(event["seconds"])
        self.at_work.pop(unit, None)
        self.said[unit] = True

    def _keep(self, event: dict[str, Any], _: float) -> None:
        self.said[self._name(event)] = True

    def _wait(self, event: dict[str, Any], _: float) -> None:
        self.waiting = str(event["why"])

    def _close(self, event: dict[str, Any]) -> None:
        self.closing, self.reason = str(event["event"]), str(event.get("reason", ""))
        self.at_work = {}

    def _name(self, event: dict[str, Any]) -> str:
        unit = event["unit"]
        if not isinstance(unit, str):
            raise TypeError
        self.named.add(unit)
        return unit


def _finite(value: Any) -> float:
    """Return a number of an event; NaN and infinity, which JSON lacks, are refused."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


FileStamp = tuple[int, int] | None  # a file's time of change in ns and its size; None: no file


class MarkerScan:
    """The units' states; a marker is read anew only where it, or what it was made from, changed.

    Reading looks whether a unit's files exist. Hashing them takes as long as reading them all, so
    `hash_some` does it bit by bit.

    Args:
        run: The run.
        units: Its units.
    """

    def __init__(self, run: Run, units: Iterable[Unit]) -> None:
        self._run, self._units = run, {unit.name: unit for unit in units}
        self._stamps: dict[str, list[FileStamp]] = {}
        self._states: dict[str, UnitState] = {}
        self._unhashed: dict[str, Unit] = {}
        self.done: dict[str, float] = {}  # seconds by unit

    @property
    def unhashed(self) -> int:
        """Number of units that are done as far as was looked, but whose files were not hashed."""
        return len(self._unhashed)

    @property
    def spoilt(self) -> list[UnitState]:
        """The units that were done once and are to be done again, with the reason of each."""
        return [state for state in self._states.values() if state.state not in {"done", "missing"}]

    def read(self) -> None:
        """Look at the markers that are new, changed or gone since the last time."""
        known: dict[str, FileStamp] = {}
        for name, unit in self._units.items():
            stamps = [self._stamp(path, known) for path in (unit.marker, *unit.inputs)]
            if stamps != self._stamps.get(name):
                self._stamps[name] = stamps
                self._take(self._run.inspect(unit, deep=False))

    def hash_some(self, seconds: float) -> None:
        """Hash the files of units that are done: of one at least, and on for so many seconds."""
        until = time.monotonic() + seconds
        while self._unhashed:
            name = next(iter(self._unhashed))
            self._take(self._run.inspect(self._unhashed[name]))
            self._unhashed.pop(name, None)
            if time.monotonic() >= until:
                return

    def believe(self, name: str, *, done: bool, seconds: float = 0.0) -> None:
        """Take a driver's word for a unit; names that are not known are left out."""
        unit = self._units.get(name)
        if unit is None:
            return
        self._states[name] = UnitState(unit, "done" if done else "missing")
        self._unhashed.pop(name, None)
        self.done.pop(name, None)
        if done:
            self.done[name] = seconds

    def _take(self, state: UnitState) -> None:
        done = state.state == "done"
        marker = self._run.marker(state.unit) if done else None
        seconds = marker["record"].get("seconds", 0.0) if marker else 0.0
        self.believe(state.unit.name, done=done, seconds=seconds)
        self._states[state.unit.name] = state
        if done:
            self._unhashed[state.unit.name] = state.unit

    def _stamp(self, path: str, known: dict[str, FileStamp]) -> FileStamp:
        if path not in known:
            try:
                found = (self._run.path / path).stat()
                known[path] = (found.st_mtime_ns, found.st_size)
            except OSError:
                known[path] = None
        return known[path]


@dataclass(frozen=True)
class PreviewSequence:
    """The pictures of one unit.

    Attributes:
        folder: Where they lie.
        unit: The unit's name.
        steps: Steps of its schedule.
        images: Class index and slot of each image of a picture, from left to right.
        draws: Who steers the unit.
        taken: The steps of which there is a picture, ascending.
        size: Side of the run's images, in pixels; none of a picture is larger.
    """

    folder: Path
    unit: str
    steps: int
    images: tuple[tuple[int, int], ...]
    draws: TeacherSchedule
    taken: tuple[int, ...]
    size: int

    def tiles(self, step: int) -> list[bytes]:
        """Return each image of a picture as PNG; none where the picture is gone or damaged."""
        try:
            with Image.open(self.folder / f"{step:06d}.png") as strip:
                side = strip.height
                if side > self.size or strip.width != side * len(self.images):
                    return []
                places = range(0, strip.width, side)
                return [_png(strip.crop((left, 0, left + side, side))) for left in places]
        except DECODE_ERRORS:
            return []

    def teachers_at(self, step: int) -> tuple[str, ...]:
        """Return the BN teachers of the step that led to a picture; of the first, before it."""
        return self.draws.bn_teachers_at(max(0, step - 1))

    def speakers_at(self, step: int) -> tuple[str, ...]:
        """Return the networks whose logits counted in that step."""
        return self.draws.logit_teachers_at(max(0, step - 1))


def load_previews(run: Run) -> list[PreviewSequence]:
    """Return the films that a run holds, one per method at most, the latest first."""
    size = run.settings.image_size
    abouts = run.path.glob("previews/*/*/about.json")
    found = [film for about in abouts if (film := _film(about, size)) is not None]
    return sorted(found, key=_age)


def _age(film: PreviewSequence) -> float:
    try:
        return -film.folder.stat().st_mtime
    except OSError:
        return 0.0


def _film(about: Path, size: int) -> PreviewSequence | None:
    """Return a film that has a picture and says what it shows."""
    values: dict[str, Any] = fileio.read_record(about)
    taken = sorted(int(p.stem) for p in about.parent.glob("*.png") if p.stem.isdecimal())
    try:
        bn_teachers = tuple(tuple(map(str, bn_teachers)) for bn_teachers in values["bn_teachers"])
        images = tuple((int(c), int(image_index)) for c, image_index in values["images"])
        draws = TeacherSchedule(
            int(values["resample_every"]), bn_teachers, tuple(values["logit_teachers"])
        )
        unit, steps = str(values["unit"]), int(values["steps"])
    except (KeyError, TypeError, ValueError):
        return None
    if not taken or not bn_teachers or draws.resample_every < 1:
        return None
    return PreviewSequence(about.parent, unit, steps, images, draws, tuple(taken), size)


def _png(image: Image.Image) -> bytes:
    return encode_image(image.convert("RGB"))


RunOrPath = Run | Path | str  # a run, or its folder


def open_for_viewing(place: RunOrPath) -> Run:
    """Return the run that is to be looked at.

    Raises:
        UsageError: There is no run that this version of the kit can read; says what to do.
    """
    if isinstance(place, Run):
        return place
    path = Path(place).absolute()
    if not path.is_dir():
        raise UsageError(f"no folder {path}; name a run's folder, under runs_dir")
    if (path / "study.json").exists():
        raise UsageError(f"{path} is a study's folder; name one of the runs in it")
    if not (path / "config.yaml").is_file():
        raise UsageError(
            f"no run has begun in {path}: it has no config.yaml; open a notebook on it"
        )
    return Run.open(path)


def version_warning(run: Run) -> str:
    """Return what to beware of with a run that can be read, in a sentence; empty: nothing."""
    newer = newer_version_message(run.manifest())
    return f"{newer[0].upper()}{newer[1:]}; update the kit to see all of it." if newer else ""


_FRESH = 60.0  # seconds; an event this recent means a driver whose lock cannot be seen
_LONG = 600.0  # seconds without a word after which a driver may hang
_NEXT = "Finished units are kept; Resume continues"


@dataclass(frozen=True)
class Curve:
    """The losses of a unit.

    Attributes:
        unit: Its name.
        steps: Steps of its schedule.
        terms: By the term's name: (step, value), the value unweighted.
    """

    unit: str
    steps: int
    terms: dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class RunState:
    """What the files say.

    Attributes:
        units: Number of units.
        done: Number of those that are done.
        unhashed: Number of those whose files are there, but not yet known to be whole.
        at_work: The unit that was begun last and has not ended; empty where none.
        step: Steps that it has done.
        steps: Steps of its schedule; 0 until its first report.
        seconds_left: Estimate; None where nothing was measured.
        images_per_minute: Since the latest driver's first unit began; None before.
        curves: The losses of units at work and of some that have ended, the last being the unit
            to look at where none is chosen.
        driver: Who holds the stage's lock.
        started: When the latest driver began, by its clock; None before the first.
        host: Where the latest driver was, by its own word.
        closing: How it ended: `complete`, `stopped`, `failed`, or empty.
        reason: Why it failed.
        age: Seconds since the last event, by this machine's clock; None before the first.
        notes: What else is to be said, a sentence each.
    """

    units: int
    done: int
    unhashed: int = 0
    at_work: str = ""
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    images_per_minute: float | None = None
    curves: tuple[Curve, ...] = ()
    driver: StageProcess | None = None
    started: float | None = None
    host: str = ""
    closing: str = ""
    reason: str = ""
    age: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def curve(self) -> Curve | None:
        """The losses to look at where no unit is chosen; None before any."""
        return self.curves[-1] if self.curves else None

    def curve_of(self, unit: str) -> Curve | None:
        """Return a unit's losses; None where there are none."""
        return next((curve for curve in self.curves if curve.unit == unit), None)

    @property
    def missing(self) -> int:
        """Number of units that are not done."""
        return self.units - self.done

    @property
    def is_running(self) -> bool:
        """Whether someone drives the run: holds its lock, or has just spoken from elsewhere."""
        return self.driver is not None or self.status == "elsewhere"

    @property
    def status(self) -> str:
        """Running, elsewhere, checking, complete, stopped, failed, died, begun or empty."""
        if self.driver is not None:
            return "running" if self.driver.is_here else "elsewhere"
        if not self.missing:
            return "checking" if self.unhashed else "complete"
        if self.closing in {"stopped", "failed"}:
            return self.closing
        if self.at_work:
            recent = self.age is not None and self.age < _FRESH
            return "elsewhere" if recent and self._is_foreign else "died"
        return "begun" if self.done else "empty"

    @property
    def was_begun(self) -> bool:
        """Whether there is something to resume."""
        return self.done > 0 or self.status in {"stopped", "failed", "died"}

    @property
    def _is_foreign(self) -> bool:
        return bool(self.host) and not StageProcess(1, self.host).is_here

    @property
    def words(self) -> str:
        """The state in a sentence or two."""
        return {
            "running": self._running,
            "elsewhere": self._elsewhere,
            "checking": lambda: (
                f"All {self.units} units are there; checking the files of {self.unhashed}."
            ),
            "complete": lambda: f"Complete: all {self.units} units are done.",
            "stopped": lambda: f"Stopped. {_NEXT}.",
            "failed": lambda: f"Failed: {self.reason or 'for an unknown reason'}. {_NEXT}.",
            "died": self._died,
            "begun": lambda: f"Not running. {_NEXT}.",
            "empty": lambda: "No units yet: press Start, or run the cell below.",
        }[self.status]()

    def _running(self) -> str:
        process = self.driver.process if self.driver is not None else 0
        if process == os.getpid():
            return "Running in this notebook's kernel; interrupt the kernel to stop it."
        return f"Running in process {process} on this machine.{self._silence()}"

    def _elsewhere(self) -> str:
        if self.driver is None:
            return f"Driven on {self.host}, by its events; its lock is not seen here."
        return (
            f"Running in process {self.driver.process} on {self.driver.host or 'an unknown host'}; "
            f"it can be stopped there only.{self._silence()}"
        )

    def _silence(self) -> str:
        if self.age is None or self.age < _LONG:
            return ""
        return f" Its last word is {self.age / 60:.0f} min old: it may hang."

    def _died(self) -> str:
        return (
            f"The process that drove the run died at {self.at_work} without a word (killed, or out "
            f"of memory). {_NEXT}."
        )


Points = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 40
_TICKS = 5
_LEAST = 1e-12  # stands for what has no logarithm


def curves_svg(terms: Mapping[str, Points], *, steps: int) -> str:
    """Draw each term over the steps, on a logarithmic scale, as inline SVG.

    Args:
        terms: By name: (step, value); values that are not finite are left out.
        steps: End of the step axis, at least 1.
    """
    drawn = {name: _finite_points(points) for name, points in terms.items()}
    values = [value for points in drawn.values() for _, value in points]
    low, high = _decades(values)
    lines = [
        _line(points, place, steps, (low, high)) for place, points in enumerate(drawn.values())
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'aria-label="Losses by named term over the steps; the table has the latest values" '
        'style="max-width:100%;height:auto;font:12px system-ui,sans-serif" fill="currentColor">'
        f"{_grid(low, high, steps)}{''.join(lines)}</svg>"
    )


def loss_terms_table(terms: Mapping[str, Points]) -> str:
    """Return the latest value of each term as an HTML table, which is the curves' legend too."""
    rows = "".join(
        f"<tr><td>{_sample(place)}</td><td>{html.escape(name)}</td>"
        f'<td style="text-align:right;padding-left:1em">{points[-1][1]:.4g}</td></tr>'
        for place, (name, points) in enumerate(terms.items())
        if points
    )
    head = "<tr><th></th><th style='text-align:left'>term, unweighted</th><th>latest</th></tr>"
    return f"<table>{head}{rows}</table>"


def _finite_points(points: Points) -> list[tuple[int, float]]:
    return [(step, max(value, _LEAST)) for step, value in points if math.isfinite(value)]


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the value axis, as powers of ten; at least one decade apart."""
    if not values:
        return 0.0, 1.0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return float(low), float(max(high, low + 1))


def _x(step: float, steps: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, steps)


def _y(power: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - power) / (high - low)


def _line(points: Points, place: int, steps: int, ends: tuple[float, float]) -> str:
    path = " ".join(f"{_x(s, steps):.1f},{_y(math.log10(v), ends):.1f}" for s, v in points)
    return f'<polyline points="{path}" {_pen(place)}/>'


def _pen(place: int) -> str:
    dashes = dash_of(place).replace("solid", "none")
    return (
        f'fill="none" stroke="{colour_at(place)}" stroke-width="2" stroke-dasharray="{dashes}" '
        'stroke-linejoin="round"'
    )


def _sample(place: int) -> str:
    return (
        '<svg width="34" height="10" aria-hidden="true">'
        f'<line x1="1" y1="5" x2="33" y2="5" {_pen(place)}/></svg>'
    )


def _grid(low: float, high: float, steps: int) -> str:
    """Draw the axes: a line per power of ten, at most eight of them, and a few steps."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    every = -(-int(high - low) // 8)
    parts = []
    for power in range(int(low), int(high) + 1, every):
        y = _y(power, (low, high))
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity="0.15"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{_power(power)}</text>"
        )
    for step in dict.fromkeys(round(steps * i / _TICKS) for i in range(_TICKS + 1)):
        x = _x(step, steps)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>')
    turned = f"rotate(-90 12 {(_TOP + bottom) / 2})"
    parts.append(
        f'<text x="12" y="{(_TOP + bottom) / 2}" text-anchor="middle" transform="{turned}">'
        "loss (log scale)</text>"
    )
    return "".join(parts)


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 4 else f"1e{power}"
