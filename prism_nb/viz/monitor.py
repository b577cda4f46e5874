"""State of a stage of a run, read from its files, and the process that executes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.device import choose_device, device_load
from prism_nb.core.errors import UsageError
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import Unit
from prism_nb.data.image_io import DECODE_ERRORS, encode_image
from prism_nb.execution import pipeline
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

STAGE = "synthesis"
LossCurves = dict[str, list[tuple[int, float]]]  # (step, unweighted value) by the term's name

_KEPT = "Finished units are kept; the next start continues"
_NO_MESSAGE = "the process ended without a message: killed, or out of memory"


@dataclass
class UnitProgress:
    """A unit in progress: its start, in seconds since 1970, and its steps; 0 before any report."""

    started: float
    step: int = 0
    steps: int = 0

    @property
    def share(self) -> float:
        """Share of its steps that is done, in [0, 1]."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True)
class Pull:
    """Shares of the gradient on a method's images, by term, mean over so many units."""

    shares: dict[str, float]  # shares in [0, 1] by term, such as `bn/resnet18`
    units: int  # number of units
    step: int  # the step that was measured, of the newest unit


class RunTracker:
    """Progress of a stage of a run, from its files; each `read` takes only what is new.

    Markers are read at first and whenever a driver starts or ends. In between, its events name
    the finished units. Files are not hashed: `pipeline.check` does that.

    Attributes:
        units: The units by name.
        done: Names of the finished units.
        driver: Process that holds the stage's lock; None if there is none.
        obstacle: The reason why the stage cannot be started; empty if it can, or is being done.
        unit: The unit that started last; empty before any.
        losses_of: The newest unit that reported losses; empty before any.
        losses: Its losses.
    """

    def __init__(self, run: Run, stage: str = STAGE) -> None:
        self._run, self._stage, self._position = run, stage, 0
        self.units: dict[str, Unit] = {}
        self.done: set[str] = set()
        self.driver: Owner | None = None
        self.obstacle = ""
        self.unit, self.losses_of, self.losses = "", "", LossCurves()
        self._measured: dict[str, dict[str, Pull]] = {}  # by method and unit, the newest last
        self._costs: dict[str, float] = {}
        self._at_work: dict[str, UnitProgress] = {}
        self._seconds: dict[str, float] = {}  # of units that ended
        self._running, self._failure, self._waiting = False, "", ""
        self._time = 0.0  # of the last event, in seconds since 1970

    def read(self) -> Self:
        """Read what is new, and return this tracker.

        Raises:
            PrismError: The units cannot be listed, as when the dataset is gone.
        """
        first = not self.units
        if first:
            units = {unit.name: unit for unit in pipeline.stage_units(self._run, self._stage)}
            settings = self._run.settings
            self._costs = {
                name: pipeline.relative_cost(settings, unit) for name, unit in units.items()
            }
            self.units = units
        driver = self._run.locks.driver(
            self._stage
        )  # before its events: the last ones are never missed
        events, self._position = self._run.events.read_after(self._stage, self._position)
        for event in events:
            self._add(event)
        if first or driver != self.driver:
            self.driver = driver
            self.done = {
                name
                for name, unit in self.units.items()
                if self._run.units.is_done(unit, verify_hashes=False)
            }
        if driver is None and self._running and self._at_work:
            self._running, self._failure, self._at_work = False, _NO_MESSAGE, {}
        self.obstacle = "" if driver or not self.missing else _obstacle(self._run, self._stage)
        return self

    @property
    def missing(self) -> int:
        """Number of unfinished units."""
        return len(self.units) - len(self.done)

    @property
    def at_work(self) -> UnitProgress:
        """Progress of the unit that started last."""
        return self._at_work.get(self.unit, UnitProgress(0.0))

    @property
    def share(self) -> float:
        """Share of the units that is done, with the steps of all units at work, in [0, 1].

        Several are at work at once: a unit's files are still written when the next one begins.
        """
        at_work = sum(work.share for work in self._at_work.values())
        return min(1.0, (len(self.done) + at_work) / max(1, len(self.units)))

    @property
    def message(self) -> str:
        """The state in a sentence or two."""
        if self.driver is not None:
            wait = f" Waiting: {self._waiting}." if self._waiting else ""
            return f"Running in {_where(self.driver)}.{wait}"
        if not self.missing:
            return f"Finished: all {len(self.units)} units are done."
        if self._failure:
            return f"Failed: {self._failure}. {_KEPT}."
        return f"Stopped. {_KEPT}." if self.done else "No units yet."

    @property
    def seconds_left(self) -> float | None:
        """Estimated time for the unfinished units; None before any measurement."""
        progress = {n: (1.0, taken) for n, taken in self._seconds.items() if n in self.done}
        for name, at_work in self._at_work.items():
            progress[name] = (at_work.share, self._time - at_work.started)
        unknown = self.done - progress.keys()  # done in an unknown time
        costs = {name: cost for name, cost in self._costs.items() if name not in unknown}
        left = pipeline.seconds_left(costs, progress)
        workers = max(1, len(self._at_work))
        return None if left is None else left / workers  # workers share what is left

    @property
    def pulls(self) -> dict[str, Pull]:
        """What pulls the images of each method that was measured.

        Of a finished method it is the mean over its units; before, that over the units at work,
        or the newest unit where these were not measured yet.
        """
        unfinished = {self.units[name].params["method"] for name in self.units.keys() - self.done}
        found = {}
        for method in self._run.settings.methods:
            measured = list(self._measured.get(method, {}).items())
            if measured and method in unfinished:
                at_work = [each for each in measured if each[0] in self._at_work]
                measured = at_work or measured[-1:]
            if measured:
                found[method] = _mean([pull for _, pull in measured])
        return found

    def _add(self, event: dict[str, Any]) -> None:
        """Take note of an event; unknown kinds and units of other settings change nothing."""
        kind, unit, self._time = event["event"], event.get("unit"), event.get("time", self._time)
        self._waiting = event["why"] if kind == "waiting" else ""
        if kind in {"start", "complete", "stopped", "failed"}:
            self._running, self._at_work = kind == "start", {}
            self._failure = str(event.get("reason", "")) if kind == "failed" else ""
        elif unit not in self.units:
            return
        elif kind == "unit_start":
            self._begin(unit)
        elif kind == "step":
            self._step(unit, event)
        elif kind == "gradient":
            measured = self._measured.setdefault(self.units[unit].params["method"], {})
            measured.pop(unit, None)
            measured[unit] = Pull(event["shares"], 1, event["step"])
        elif kind in {"unit_end", "unit_skipped"}:
            self.done.add(unit)
            self._at_work.pop(unit, None)
            if "seconds" in event:
                self._seconds[unit] = event["seconds"]

    def _begin(self, unit: str) -> None:
        self.done.discard(unit)
        self._at_work[unit] = UnitProgress(self._time)
        self.unit = unit
        if unit == self.losses_of:
            self.losses = {}

    def _step(self, unit: str, event: dict[str, Any]) -> None:
        if unit not in self._at_work:  # a worker that outlives its driver
            self._begin(unit)
        work = self._at_work[unit]
        work.step, work.steps = event["step"], event["steps"]
        losses = event.get("losses", {})
        if unit == self.unit and losses:
            if unit != self.losses_of:
                self.losses_of, self.losses = unit, {}
            for term, value in losses.items():
                self.losses.setdefault(term, []).append((work.step, value))


def _mean(pulls: list[Pull]) -> Pull:
    total: Counter[str] = Counter()
    for pull in pulls:
        total.update(pull.shares)
    shares = {term: share / len(pulls) for term, share in total.items()}
    return Pull(shares, len(pulls), pulls[-1].step)


def _obstacle(run: Run, stage: str) -> str:
    """Return which stages have to be done before a stage; empty if it can be started."""
    for name in pipeline.find_stage(stage).needs:
        found = pipeline.state(run, name, verify_hashes=False)
        if found.missing:
            notebook = pipeline.find_stage(name).notebook
            count = f"{found.missing} of {len(found.states)} units of the {name} are missing"
            return f"{count}; run notebook {notebook} first"
    return ""


def _where(driver: Owner) -> str:
    if not driver.is_here:
        return f"process {driver.process} on {driver.host}; it can be stopped only there"
    if driver.process == os.getpid():
        return "this notebook's kernel; interrupt the kernel to stop it"
    return f"process {driver.process} on this machine"


# -- the process -----------------------------------------------------------------------------


def start_stage(run: Run, stage: str) -> subprocess.Popen[bytes]:
    """Do a stage's unfinished units in a new process that outlives this one; it writes to `logs/`.

    Raises:
        OSError: The run cannot be written to.
    """
    log_path(run, stage).parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, stage]
    with log_path(run, stage).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 (our own module)
            [*command, "--runs-dir", str(run.path.absolute().parent)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def can_be_stopped(driver: Owner | None) -> bool:
    """Return whether this process can stop a driver: on this machine, and not this kernel."""
    return driver is not None and driver.is_here and driver.process != os.getpid()


def log_path(run: Run, stage: str) -> Path:
    """Return the file with the output of a process that `start_stage` started."""
    return run.file(f"logs/{stage}.log")


def device_text(settings: Settings, stage: str, driver: Owner | None) -> str:
    """Return what a stage is done on: device, precision, and memory and load where it is here."""
    precision = settings.squeeze.precision if stage == "squeeze" else settings.precision
    how = [precision, *(["compiled"] if settings.compile and stage == STAGE else [])]
    if settings.backend != "process" or not (driver is None or driver.is_here):
        return " · ".join([f"device {settings.device}", *how])
    try:
        device = choose_device(settings.device)
    except UsageError as error:
        return str(error)
    name, *load = device_load(device)
    return " · ".join([str(device), name, *how, *load])


# -- previews --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreviewSequence:
    """Previews of a unit's images over its steps."""

    folder: Path  # the folder of the pictures
    unit: str  # the unit's name
    steps: int  # steps of its schedule
    # Class and index of each image of a picture, from left to right
    images: tuple[tuple[int, int], ...]
    schedule: TeacherSchedule  # the unit's drawn teachers
    preview_steps: tuple[int, ...]  # steps with a picture, ascending, at least one

    @property
    def method(self) -> str:
        """The unit's method."""
        return self.unit.partition("/")[0]

    def tiles(self, step: int) -> list[bytes]:
        """Return each image of a picture as PNG; none if the picture is gone or damaged."""
        try:
            with Image.open(self.folder / f"{step:06d}.png") as strip:
                side = strip.height
                lefts = range(0, side * len(self.images), side)
                crops = [strip.crop((left, 0, left + side, side)) for left in lefts]
                return [encode_image(crop.convert("RGB")) for crop in crops]
        except DECODE_ERRORS:
            return []

    def teachers_at(self, step: int) -> tuple[str, ...]:
        """Return the BN teachers of the step before a picture, or of the first step."""
        return self.schedule.bn_teachers_at(max(0, step - 1))

    def logit_teachers_at(self, step: int) -> tuple[str, ...]:
        """Return the networks whose logits counted in that step."""
        return self.schedule.logit_teachers_at(max(0, step - 1))


def load_previews(run: Run) -> list[PreviewSequence]:
    """Return the preview sequences of a run, at most one per method, the newest first.

    A folder that the next unit is just replacing is left out.
    """
    found: list[tuple[float, PreviewSequence]] = []
    for path in run.path.glob("previews/*/*/about.json"):
        with suppress(FileNotFoundError):
            written, about = path.stat().st_mtime, fileio.read_record(path)
            taken = sorted(int(p.stem) for p in path.parent.glob("*.png") if p.stem.isdecimal())
            if about and taken:
                found.append((written, _sequence(path.parent, about, tuple(taken))))
    return [sequence for _, sequence in sorted(found, key=lambda each: each[0], reverse=True)]


def _sequence(folder: Path, about: dict[str, Any], taken: tuple[int, ...]) -> PreviewSequence:
    schedule = TeacherSchedule(
        about["resample_every"],
        tuple(tuple(group) for group in about["bn_teachers"]),
        tuple(about["logit_teachers"]),
    )
    images = tuple((c, image_index) for c, image_index in about["images"])
    return PreviewSequence(folder, about["unit"], about["steps"], images, schedule, taken)
