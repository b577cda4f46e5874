"""Backend `ray`: units as tasks of a Ray cluster, whose worker processes cache their networks."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prism_nb.core.device import usable_cores
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import Unit
from prism_nb.execution.worker import (
    RunUnit,
    TaskResult,
    WorkerTask,
    one_line,
    run_task,
    threads_per_worker,
)

_RETRIES = 2  # of a unit whose worker has died
_STALL_SECONDS = 30.0  # without a started unit before missing resources are reported
_CONNECT_SECONDS = 5.0
_START_TRIES = 3  # since Ray gives up after 30 seconds, which a busy machine may need
_TEMP = "/tmp"  # noqa: S108 (Ray's default)
_OBJECT_STORE_BYTES = 80 * 2**20  # the least that Ray takes; tasks and results are small


def run_on_ray(run: Run, units: Sequence[Unit], run_unit: RunUnit) -> int:
    """Do units of a stage as Ray tasks, and return how many were done.

    As many tasks run at once as there are workers. After a failed unit no other is started.
    """
    with ray_session(run.settings):
        import ray

        cpus, gpus, workers = worker_resources(run.settings, ray.cluster_resources())
        # max_calls=0: a worker process that uses a GPU would otherwise end after one task.
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES, max_calls=0)
        task, waiting, running = remote(run_task), deque(units), dict[Any, Unit]()
        made, failure, reported, stage = 0, "", False, units[0].stage
        try:
            while running or (waiting and not failure):
                while waiting and not failure and len(running) < workers:
                    unit = waiting.popleft()
                    running[task.remote(WorkerTask.of(run, [unit], run_unit))] = unit
                finished, _ = ray.wait(list(running), timeout=_STALL_SECONDS)
                if not (finished or reported or any(run.path.glob(f"locks/{stage}/*.json"))):
                    reported = True
                    _report_waiting(run, stage, cpus, gpus)
                for reference in finished:
                    result = _task_result(reference, running.pop(reference))
                    made += result.made
                    failure = failure or result.error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
    if failure:
        raise PrismError(failure)
    return made


def _task_result(reference: Any, unit: Unit) -> TaskResult:
    """Return the result of a finished task; if Ray has given it up, its failure."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return TaskResult(
            0,
            f"Ray gave up unit {unit.name}: {one_line(error)} If its workers died, out of memory "
            "is the usual cause: lower workers or micro_batch_size. Their output is in "
            f"{_logs()} on their machine; finished units are kept",
        )


def _report_waiting(run: Run, stage: str, cpus: int, gpus: float) -> None:
    """Log which resources are missing."""
    import ray

    kind, needed = ("GPU", gpus) if gpus else ("CPU", cpus)
    free, total = ray.available_resources().get(kind, 0), ray.cluster_resources().get(kind, 0)
    why = (
        f"waiting for room on the Ray cluster: a worker needs {needed:g} {kind}s, {free:g} of "
        f"{total:g} are free"
    )
    run.events.append(stage, event="waiting", why=why)


def worker_resources(settings: Settings, cluster: dict[str, float]) -> tuple[int, float, int]:
    """Return the CPU cores and GPUs of a worker, and the number of workers wanted that fit.

    A worker takes GPUs where there are any, else its CPU threads. `cluster` has the cluster's
    resources, by Ray's names.
    """
    on_gpu = settings.device != "cpu" and settings.gpus_per_worker > 0 and cluster.get("GPU", 0) > 0
    kind, setting = ("GPU", "gpus_per_worker") if on_gpu else ("CPU", "threads")
    needed = settings.gpus_per_worker if on_gpu else float(threads_per_worker(settings))
    capacity = int(cluster.get(kind, 0) / needed + 1e-9)
    if capacity < 1:
        raise UsageError(
            f"a worker needs {needed:g} {kind}s, but the Ray cluster has {cluster.get(kind, 0):g}; "
            f"lower {setting}"
        )
    workers = capacity if settings.workers == "auto" else min(settings.workers, capacity)
    return (0, needed, workers) if on_gpu else (int(needed), 0.0, workers)


# -- connecting -------------------------------------------------------------------------------

# Ray reads these documented variables as it is imported; the user's own values take precedence.
_NO_TELEMETRY = {"RAY_USAGE_STATS_ENABLED": "0"}
_LOCAL_ONLY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without clusters, 127.0.0.1 is the only address
    "RAY_AUTH_MODE": "token",
}
_QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": False,
}


@contextmanager
def ray_session(settings: Settings) -> Iterator[None]:
    """Connect to the settings' Ray cluster, or to one of this machine that ends with the context.

    If this process is connected to Ray already, that connection is used and left open.

    Raises:
        PrismError: Ray does not start, or as `require_ray`.
    """
    require_ray(settings)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
    elif settings.ray_address is None:
        workers = 1 if settings.workers == "auto" else settings.workers
        cpus = max(usable_cores(), workers * threads_per_worker(settings))
        with local_cluster(cpus=cpus, gpus=0 if settings.device == "cpu" else None):
            yield
    else:
        _set_environment(_NO_TELEMETRY)
        import ray

        try:
            ray.init(settings.ray_address, **_QUIET)
        except Exception as error:  # Ray raises several types
            raise _unreachable(settings.ray_address, error) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def local_cluster(*, cpus: int, gpus: int | None) -> Iterator[str]:
    """Start Ray on this machine, connect to it, and stop it when the context ends.

    The CPU cores that workers may use together may exceed the machine's, and so may GPUs, which Ray
    finds where None.

    Yields:
        The address at which other processes of this user can connect.
    """
    if "ray" in sys.modules and not os.environ.keys() >= _LOCAL_ONLY.keys():
        raise PrismError(
            "Ray was imported too early to be restricted to this machine; restart this process "
            f"(the kernel), or set {' and '.join(map('='.join, _LOCAL_ONLY.items()))} before"
        )
    _set_environment({**_NO_TELEMETRY, **_LOCAL_ONLY, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    if "RAY_TMPDIR" not in os.environ:  # a long TMPDIR would not leave room for paths of sockets
        os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-", dir=_TEMP)
    import ray

    options = {**_QUIET, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    for tries_left in reversed(range(_START_TRIES)):
        try:
            ray.init("local", num_cpus=cpus, num_gpus=gpus, **options)
            break
        except Exception as error:  # Ray raises several types
            ray.shutdown()
            if not tries_left:
                raise PrismError(
                    f"Ray did not start on this machine: {one_line(error)} Its logs are in "
                    f"{_logs()}; run the same command again, or use backend process"
                ) from error
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def require_ray(settings: Settings) -> None:
    """Check that settings for Ray can work, without starting anything."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("backend ray needs Ray: pip install 'ray>=2.52', or use backend process")
    if ":" in settings.device:
        raise UsageError(
            f"device {settings.device!r} does not go with backend ray; use device auto, and "
            "CUDA_VISIBLE_DEVICES to leave some GPUs out"
        )
    if settings.ray_address not in {None, "auto"}:
        host, _, port = settings.ray_address.rpartition(":")
        try:  # Ray itself would try for minutes
            target = host.strip("[]"), int(port)
            socket.create_connection(target, timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError, ValueError) as error:
            raise _unreachable(settings.ray_address, error) from None


def _logs() -> str:
    return f"{os.environ.get('RAY_TMPDIR', _TEMP)}/ray/session_latest/logs"


def _set_environment(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _unreachable(address: str, error: Exception) -> UsageError:
    return UsageError(
        f"no Ray cluster answers at ray_address {address!r}: {one_line(error)}; use HOST:PORT of "
        "the cluster's head, or auto, or leave it out to work on this machine alone"
    )
