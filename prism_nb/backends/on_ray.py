"""Units side by side in Ray's workers, each of which keeps its networks from unit to unit."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism_nb.backends.crew import Followed, Report, Task, work_off
from prism_nb.backends.ray_cluster import connected, threads_of
from prism_nb.backends.unit_log import log_name, spoken_to
from prism_nb.backends.work import OnEvent, Outcome
from prism_nb.errors import PrismError, UsageError
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.units import Unit

_PATIENCE = 30.0  # seconds without a word from any worker, after which it is said what is missing
_DEATHS = 3  # of workers, at one unit or before their first, after which there is no further try


def run_on_ray(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in Ray's workers, as `run_units` does.

    A unit whose worker dies is given to another. A unit that fails ends the stage once those that
    are under way are done.
    """
    begin, left = time.monotonic(), []
    for unit in units:
        if run.inspect(unit).state == "done":
            on_event({"event": "kept", **unit.words})
        else:
            left.append(unit)
    made = _on_cluster(run, left, work, on_event) if left else 0
    return Outcome(len(units) - made, made, time.monotonic() - begin)


def _on_cluster(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> int:
    settings, asked = run.settings, run.settings.workers
    most = len(units) if asked == "auto" else min(asked, len(units))
    with (
        Followed(run, units[0].stage, on_event),
        connected(settings, 1 if asked == "auto" else most),
    ):
        share = _Share.of(settings, _machines())
        crew = _Crew(run, work, min(most, share.places), share)
        try:
            return crew.do(units)
        finally:
            crew.dismiss()


def _machines() -> list[dict[str, float]]:
    """Return what each living machine of the cluster has, by Ray's names."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True)
class _Share:
    """What a worker has for itself.

    Attributes:
        cpus: CPU cores; 0 where it has GPUs.
        gpus: GPUs, or a share of one.
        places: How many such workers the machines hold, at least 1.
    """

    cpus: int
    gpus: float
    places: int

    @classmethod
    def of(cls, settings: Settings, machines: Sequence[dict[str, float]]) -> _Share:
        """Return a GPU's share where the machines have GPUs, else a core per thread.

        Raises:
            UsageError: No machine has that much.
        """
        on_gpus = settings.device != "cpu" and any(m.get("GPU") for m in machines)
        kind, size = "CPU", float(threads_of(settings))
        if on_gpus and settings.gpus_per_unit:
            kind, size = "GPU", settings.gpus_per_unit
        places = sum(int(machine.get(kind, 0) / size + 1e-9) for machine in machines)
        if places:
            return cls(0, size, places) if kind == "GPU" else cls(int(size), 0, places)
        largest = max((machine.get(kind, 0) for machine in machines), default=0)
        raise UsageError(
            f"a worker is to have {size:g} {kind}s, but no machine has more than {largest:g}; "
            f"lower {'gpus_per_unit' if kind == 'GPU' else 'threads'}"
        )

    def hire(self) -> Any:
        """Return a new worker; Ray begins it as soon as there is room."""
        import ray

        return ray.remote(_Worker).options(num_cpus=self.cpus, num_gpus=self.gpus).remote()

    def missing(self, workers: int) -> str:
        """Return in words what so many workers wait for."""
        import ray

        kind, size = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        free, all_ = (
            resources.get(kind, 0)
            for resources in (ray.available_resources(), ray.cluster_resources())
        )
        return (
            f"waiting for room on the Ray cluster: {workers * size:g} {kind}s asked, {free:g} of "
            f"{all_:g} free"
        )


class _Worker:
    """Lives in a process of its own, which keeps what it has loaded from unit to unit."""

    def greet(self) -> None:
        """Answer, as soon as this worker is there."""

    def do(self, task: Task, log: str) -> Report:
        """Do a unit, and let everything that is printed meanwhile stand in its log."""
        from pathlib import Path

        with spoken_to(Path(task.run) / log):
            return work_off(task)


class _Crew:
    """Gives one unit at a time to each worker, and a dead one's to another."""

    def __init__(self, run: Run, work: str, size: int, share: _Share) -> None:
        self._run, self._work, self._size, self._share = run, work, size, share
        self._coming: dict[Any, Any] = {}  # by what they will say: workers before their first unit
        self._busy: dict[Any, tuple[Any, Unit]] = {}  # by their report to come
        self._idle: list[Any] = []
        self._left: deque[Unit] = deque()
        self._deaths: Counter[str] = Counter()
        self._failure: Exception | None = None
        self._made, self._has_told = 0, False

    def do(self, units: Sequence[Unit]) -> int:
        """Do units, and return how many the workers have done."""
        import ray

        self._left.extend(units)
        while self._busy or (self._left and not self._failure):
            if not self._failure:
                self._hand_out()
            answered, _ = ray.wait([*self._coming, *self._busy], timeout=_PATIENCE)
            if not answered and self._coming:
                self._tell_of_waiting(units[0].stage)
            for answer in answered:
                self._hear(answer)
        if self._failure:
            raise self._failure
        return self._made

    def dismiss(self) -> None:
        """End every worker, whatever it is at; its files are whole at any moment."""
        import ray

        at_work = [worker for worker, _ in self._busy.values()]
        for worker in [*self._idle, *at_work, *self._coming.values()]:
            ray.kill(worker)

    def _hand_out(self) -> None:
        while self._left and self._idle:
            worker, unit = self._idle.pop(), self._left.popleft()
            task = Task.of(self._run, [unit], self._work)
            self._busy[worker.do.remote(task, log_name(unit))] = worker, unit
        there = len(self._coming) + len(self._busy) + len(self._idle)
        for _ in range(min(self._size - there, len(self._left) - len(self._coming))):
            worker = self._share.hire()
            self._coming[worker.greet.remote()] = worker

    def _hear(self, answer: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        worker, unit = self._busy.pop(answer, (None, None))
        worker = worker or self._coming.pop(answer)
        try:
            said = ray.get(answer)
            if unit is None:
                self._has_told = False
            else:
                said.require()
                self._made += said.made
            self._idle.append(worker)
        except RayTaskError as error:
            self._fail(PrismError(f"a worker could not take its task: {error.cause!r}"), unit)
        except RayError as error:
            self._lose(unit, error)
        except PrismError as error:
            self._fail(error, unit)

    def _fail(self, error: PrismError, unit: Unit | None) -> None:
        """Hand out nothing more; the first error is the stage's."""
        if unit is not None:
            self._tell(unit, event="failed", why=str(error))
        self._failure = self._failure or error

    def _lose(self, unit: Unit | None, error: Exception) -> None:
        """Take note of a worker's death; its unit is the next to be handed out."""
        name = unit.name if unit else ""
        why = " ".join(str(error).split())
        self._deaths[name] += 1
        if unit is not None:
            self._tell(unit, event="lost", why=why)
            self._left.appendleft(unit)
        if self._deaths[name] < _DEATHS:
            return
        if unit is None:
            self._fail(PrismError(f"workers die before their first unit: {why}"), unit)
        else:
            self._fail(
                PrismError(
                    f"unit {unit.name} has cost {_DEATHS} workers their lives; out of memory is "
                    f"the usual cause: lower workers or micro_batch. What they said last is in "
                    f"{self._run.file(log_name(unit))}; finished units are kept"
                ),
                unit,
            )

    def _tell_of_waiting(self, stage: str) -> None:
        """Say once, until a worker comes, what those wait for that have not come."""
        if not self._has_told:
            self._has_told = True
            self._run.event(stage, event="waiting", why=self._share.missing(len(self._coming)))

    def _tell(self, unit: Unit, **event: Any) -> None:
        self._run.event(unit.stage, **event, unit=unit.name)
