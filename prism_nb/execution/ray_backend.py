"""Units side by side in Ray's workers, each of which keeps its networks from unit to unit."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.worker import (
    EventTail,
    Outcome,
    TaskResult,
    WorkerTask,
    log_name,
    redirect_output,
    run_task,
)

_PATIENCE = 30.0  # seconds without a word from any worker, after which it is said what is missing
_DEATHS = 3  # of workers, at one unit or before their first, after which there is no further try


def run_backend_ray(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in Ray's workers, as `run_units` does.

    A unit whose worker dies is given to another. A unit that fails ends the stage once those that
    are under way are done.
    """
    begin, left = time.monotonic(), []
    for unit in units:
        if run.inspect(unit).state == "done":
            on_event({"event": "unit_skipped", **unit.event_fields})
        else:
            left.append(unit)
    made = _on_cluster(run, left, work, on_event) if left else 0
    return Outcome(len(units) - made, made, time.monotonic() - begin)


def _on_cluster(run: Run, units: Sequence[Unit], work: str, on_event: OnEvent) -> int:
    settings, asked = run.settings, run.settings.workers
    most = len(units) if asked == "auto" else min(asked, len(units))
    with (
        EventTail(run, units[0].stage, on_event),
        ray_session(settings, 1 if asked == "auto" else most),
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
        kind, size = "CPU", float(threads_per_worker(settings))
        if on_gpus and settings.gpus_per_worker:
            kind, size = "GPU", settings.gpus_per_worker
        places = sum(int(machine.get(kind, 0) / size + 1e-9) for machine in machines)
        if places:
            return cls(0, size, places) if kind == "GPU" else cls(int(size), 0, places)
        largest = max((machine.get(kind, 0) for machine in machines), default=0)
        raise UsageError(
            f"a worker is to have {size:g} {kind}s, but no machine has more than {largest:g}; "
            f"lower {'gpus_per_worker' if kind == 'GPU' else 'threads'}"
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

    def do(self, task: WorkerTask, log: str) -> TaskResult:
        """Do a unit, and let everything that is printed meanwhile stand in its log."""
        from pathlib import Path

        with redirect_output(Path(task.run) / log):
            return run_task(task)


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
            task = WorkerTask.of(self._run, [unit], self._work)
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
            self._tell(unit, event="worker_lost", why=why)
            self._left.appendleft(unit)
        if self._deaths[name] < _DEATHS:
            return
        if unit is None:
            self._fail(PrismError(f"workers die before their first unit: {why}"), unit)
        else:
            self._fail(
                PrismError(
                    f"unit {unit.name} has cost {_DEATHS} workers their lives; out of memory is "
                    f"the usual cause: lower workers or micro_batch_size. Their last output is in "
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


AUTO = "auto"
_TIMEOUT = 5.0  # seconds to reach a cluster's address
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # a frame of kind 4, which is empty
_VARIABLE = "RAY_ADDRESS"


def find_cluster(address: str) -> str:
    """Return where a cluster is, having asked whether one answers there.

    Args:
        address: `HOST:PORT`; or `auto`, which is what RAY_ADDRESS says, else the cluster that
            `ray start` has begun or joined last on this machine.

    Raises:
        UsageError: It is no address, or `auto` leads nowhere.
        PrismError: No cluster answers there.
    """
    found, source = _current_cluster() if address == AUTO else (address, "")
    _require_answer(found, source)
    return found


def unreachable_message(address: str, why: object) -> PrismError:
    """Return what to say of an address without a cluster."""
    return PrismError(
        f"no Ray cluster answers at {address}: {why}; start one there with `ray start --head`, "
        "correct ray_address, or leave it out to work on this machine alone"
    )


def _current_cluster() -> tuple[str, str]:
    """Return where `auto` leads, and what says so; Ray itself would wait there for minutes.

    Raises:
        UsageError: Nothing says so.
    """
    named = os.environ.get(_VARIABLE, "").strip()
    if named and named != AUTO:
        return named, _VARIABLE
    record = _ray_folder() / "ray_current_cluster"
    try:
        address = record.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        address = ""
    if not address:
        raise UsageError(
            f"ray_address auto leads to no cluster: {_VARIABLE} is not set, and `ray start` has "
            f"left no record in {record}; start or join one here with `ray start`, write its "
            "HOST:PORT, or leave ray_address out to work on this machine alone"
        )
    return address, str(record)


def _ray_folder() -> Path:
    """Return the folder of Ray's own files on this machine, as Ray chooses it."""
    variables = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    named = next((os.environ[name] for name in variables if name in os.environ), None)
    return Path(named or ("/tmp" if os.name == "posix" else tempfile.gettempdir())) / "ray"  # noqa: S108


def _require_answer(address: str, source: str) -> None:
    host, _, port = address.rpartition(":")
    by = f" (by {source})" if source else ""
    if "://" in address or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(
            f"ray_address {address!r}{by} is none; use HOST:PORT of the cluster's head as "
            "`ray start` prints it, from a machine of the cluster, or auto, or leave it out for "
            "this machine"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT) as there:
            _greet(there)
    except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
        raise unreachable_message(f"{address}{by}", error) from None


def _greet(there: socket.socket) -> None:
    """Begin HTTP/2, which Ray uses; with anything else it would wait for many minutes.

    Raises:
        OSError: No answer, or another one than RFC 9113, section 3.4, has for it.
    """
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    there.sendall(_PREFACE + _SETTINGS)
    if there.recv(9)[3:4] != _SETTINGS[3:4]:
        raise OSError("what listens there is not Ray")


_FIRST_WITH_TOKENS = "2.52"
_TRIES = 3
_OBJECT_STORE = 80 * 2**20  # bytes; only keys travel, and Ray takes no less
_LOOPBACK = "127.0.0.1"  # the one address at which Ray's processes listen nowhere else
# No telemetry, no page of metrics that anybody may read, and no caller without the token.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "RAY_AUTH_MODE": "token",
}


def require_ray(settings: Settings) -> str | None:
    """Check that settings for Ray can work, without starting anything.

    Returns:
        The address of the cluster that is asked for; None where one is to be made.

    Raises:
        UsageError: Ray is not installed or too old, a single device is named for several workers,
            or the cluster's address is none.
        PrismError: The cluster does not answer.
    """
    _require_tokens()
    if ":" in settings.device:
        raise UsageError(
            f"device {settings.device!r} does not go with backend ray, which gives every worker a "
            "GPU of its own; use device auto, and CUDA_VISIBLE_DEVICES to leave some GPUs out"
        )
    return None if settings.ray_address is None else find_cluster(settings.ray_address)


def _require_tokens() -> None:
    """Refuse a Ray that would take work from anybody, and one that is not there."""
    wanted = f"pip install 'ray>={_FIRST_WITH_TOKENS}', or use backend process"
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"backend ray needs Ray, which is not installed: {wanted}")
    found = metadata.version("ray")
    if _release(found) < _release(_FIRST_WITH_TOKENS):
        raise UsageError(
            f"Ray {found} has no tokens, so anybody on this machine could give it work: {wanted}"
        )


def _release(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:2]]


@contextmanager
def ray_session(settings: Settings, workers: int) -> Iterator[None]:
    """Be connected to Ray for a while; a cluster made for it ends with it.

    A connection that this process has already is used, and left as it is.

    Args:
        settings: The run's.
        workers: How many are wanted, at most.

    Raises:
        UsageError: As `require_ray`.
        PrismError: As `require_ray`, or Ray does not start.
    """
    address = require_ray(settings)
    with ExitStack() as undo:
        undo.enter_context(_own_signals())
        if not _is_connected():
            _connect(address or undo.enter_context(_own_cluster(settings, workers)))
            undo.callback(_disconnect)
        yield


def _is_connected() -> bool:
    """Return whether this process has connected to Ray itself, of which the kit knows nothing."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _own_cluster(settings: Settings, workers: int) -> AbstractContextManager[str]:
    cpus = max(os.cpu_count() or 1, workers * threads_per_worker(settings))
    return local_cluster(cpus=cpus, gpus=_gpus(settings))


def _connect(address: str) -> None:
    _prepare({"RAY_USAGE_STATS_ENABLED": "0"})
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:  # Ray raises plain ones, by kind of trouble and by version
        raise unreachable_message(address, _words(error)) from error


@contextmanager
def local_cluster(*, cpus: int, gpus: int) -> Iterator[str]:
    """Make a cluster of this machine, which lives no longer than this process.

    Args:
        cpus: Cores that workers may take together; more than there are is no error.
        gpus: GPUs, likewise; those that CUDA_VISIBLE_DEVICES shows.

    Yields:
        Its address.

    Raises:
        PrismError: Ray does not start, or was imported before it could be given a token.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise PrismError(
            "Ray was imported before its token was set, so anybody on this machine could give it "
            "work; restart this process (the kernel), or set RAY_AUTH_MODE=token before"
        )
    _prepare({**_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    with _loopback_only(), _unrecorded():
        try:
            with _without_dashboard():
                _start(cluster, cpus, gpus)
            yield cluster.address
        finally:
            cluster.shutdown()


def _prepare(variables: dict[str, str]) -> None:
    """Set variables that Ray reads as it is imported; the user's own stay."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _start(cluster: Any, cpus: int, gpus: int) -> None:
    """Start a machine's part; Ray gives its helpers 15 seconds, which a busy machine may not."""
    for left in reversed(range(_TRIES)):
        try:
            cluster.add_node(
                num_cpus=cpus,
                num_gpus=gpus,
                node_ip_address=_LOOPBACK,
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                include_log_monitor=False,
                no_monitor=True,
            )
            return
        except Exception as error:  # Ray raises a plain one
            if not left:
                raise PrismError(
                    f"Ray did not start on this machine in {_TRIES} tries: {_words(error)} Its "
                    "logs are in /tmp/ray/session_latest/logs; run the same command again once "
                    "the machine is less busy, or use backend process"
                ) from error


@contextmanager
def _without_dashboard() -> Iterator[None]:
    """Let Ray start as if its dashboard's packages were not installed.

    Otherwise every machine serves a page of metrics to anybody, and takes jobs by HTTP.
    """
    with patch.dict(sys.modules, {"ray.dashboard.optional_deps": None}):
        yield


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for this machine's address, as it does by itself on macOS.

    Elsewhere it would put an outer address in its place, and listen to the whole network.
    Processes that connect meanwhile inherit that.
    """
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _unrecorded() -> Iterator[None]:
    """Keep a cluster of the kit's own out of Ray's record, which `auto` follows."""
    with (
        patch("ray._private.utils.write_ray_address", create=True),
        patch("ray._common.utils.reset_ray_address", create=True),
    ):
        yield


def _words(error: Exception) -> str:
    return " ".join(str(error).split())


def threads_per_worker(settings: Settings) -> int:
    """Return the CPU threads of a worker."""
    return 1 if settings.threads == "auto" else settings.threads


def _gpus(settings: Settings) -> int:
    import torch

    return 0 if settings.device == "cpu" else torch.cuda.device_count()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put the handler of SIGTERM back that Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
