"""Backend `ray`: units as tasks of a Ray cluster, whose worker processes cache their networks."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit
from prism_nb.execution.progress import follow_events
from prism_nb.execution.worker import (
    Outcome,
    TaskResult,
    WorkerTask,
    one_line,
    run_task,
    threads_per_worker,
)

_MAX_DEATHS = 3  # of workers at one unit
_STALL_SECONDS = 30.0  # without a started unit before missing resources are reported
_CONNECT_SECONDS = 5.0
_START_TRIES = 3  # since Ray gives up after 30 seconds, which a busy machine may need
_LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108 (Ray's default)
_OBJECT_STORE_BYTES = 80 * 2**20  # the least that Ray takes; tasks and results are small


def run_backend_ray(run: Run, units: Sequence[Unit], run_unit: str, on_event: OnEvent) -> Outcome:
    """Do the units of a stage in Ray's workers, as `run_units` does.

    A unit whose worker dies is given to another worker. After a failed unit no other is started.

    Raises:
        PrismError: A unit failed, or three workers died while running it.
    """
    start, missing = time.monotonic(), list[Unit]()
    for unit in units:
        if run.units.is_done(unit):
            on_event({"event": "unit_skipped", **unit.event_fields})
        else:
            missing.append(unit)
    made = 0
    if missing:
        with follow_events(run, missing[0].stage, on_event), ray_session(run.settings):
            made = _run_tasks(run, missing, run_unit)
    return Outcome(len(units) - made, made, time.monotonic() - start)


def _run_tasks(run: Run, units: Sequence[Unit], run_unit: str) -> int:
    """Do units as Ray tasks, as many at once as there are workers; return how many were done."""
    import ray

    cpus, gpus, workers = worker_resources(run.settings, ray.cluster_resources())
    # max_calls=0: a worker process that uses a GPU would otherwise end after one task.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=0)(run_task)
    waiting, running, deaths = deque(units), dict[Any, Unit](), Counter[str]()
    made, failure, reported = 0, "", False
    try:
        while running or (waiting and not failure):
            while waiting and not failure and len(running) < workers:
                unit = waiting.popleft()
                running[remote.remote(WorkerTask.of(run, [unit], run_unit))] = unit
            finished, _ = ray.wait(list(running), timeout=_STALL_SECONDS)
            if not finished and not reported:
                reported = _report_waiting(run, units[0].stage, cpus, gpus)
            for reference in finished:
                unit = running.pop(reference)
                result = _task_result(reference)
                if isinstance(result, str):
                    run.events.append(unit.stage, event="worker_lost", unit=unit.name, why=result)
                    deaths[unit.name] += 1
                    if deaths[unit.name] < _MAX_DEATHS:
                        waiting.appendleft(unit)
                        continue
                    result = TaskResult(0, _deaths_message(unit))
                if result.error:
                    run.events.append(unit.stage, event="failed", unit=unit.name, why=result.error)
                    failure = failure or result.error
                made += result.made
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    if failure:
        raise PrismError(failure)
    return made


def _task_result(reference: Any) -> TaskResult | str:
    """Return the result of a finished task, or the reason for which its worker died."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        result: TaskResult = ray.get(reference)
    except RayTaskError as error:
        return TaskResult(0, f"a worker could not take its task: {error.cause!r}")
    except RayError as error:
        return one_line(error)
    return result


def _deaths_message(unit: Unit) -> str:
    return (
        f"{_MAX_DEATHS} workers died while running unit {unit.name}; out of memory is the usual "
        f"cause: lower workers or micro_batch_size. Their output is in {_LOGS} on their machine; "
        "finished units are kept"
    )


def _report_waiting(run: Run, stage: str, cpus: int, gpus: float) -> bool:
    """Log which resources are missing if no unit has started; return whether they are."""
    import ray

    if any(run.path.glob(f"locks/{stage}/*.json")):  # leases of started units
        return False
    kind, needed = ("GPU", gpus) if gpus else ("CPU", cpus)
    free, total = ray.available_resources().get(kind, 0), ray.cluster_resources().get(kind, 0)
    why = (
        f"waiting for room on the Ray cluster: a worker needs {needed:g} {kind}s, {free:g} of "
        f"{total:g} are free"
    )
    run.events.append(stage, event="waiting", why=why)
    return True


def worker_resources(settings: Settings, cluster: dict[str, float]) -> tuple[int, float, int]:
    """Return what a worker takes of a cluster: GPUs where there are any, else its CPU threads.

    Args:
        settings: The run's.
        cluster: The cluster's resources, by Ray's names.

    Returns:
        CPU cores and GPUs of a worker, and the number of workers wanted that the cluster holds.

    Raises:
        UsageError: The cluster holds no such worker.
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
        UsageError: As `require_ray`.
        PrismError: As `require_ray`, or Ray does not start.
    """
    require_ray(settings)
    if _is_connected():
        yield
    elif settings.ray_address is None:
        workers = 1 if settings.workers == "auto" else settings.workers
        cpus = max(os.cpu_count() or 1, workers * threads_per_worker(settings))
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

    Args:
        cpus: CPU cores that workers may use together; may exceed the machine's.
        gpus: GPUs, likewise; those that Ray finds where None.

    Yields:
        The address at which other processes of this user can connect.

    Raises:
        PrismError: Ray does not start, or was imported before it could be made local.
    """
    if "ray" in sys.modules and not os.environ.keys() >= _LOCAL_ONLY.keys():
        raise PrismError(
            "Ray was imported before it could be restricted to this machine, and would listen to "
            "the network; restart this process (the kernel), or set "
            f"{_assignments(_LOCAL_ONLY)} before"
        )
    _set_environment({**_NO_TELEMETRY, **_LOCAL_ONLY, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    import ray

    for tries_left in reversed(range(_START_TRIES)):
        try:
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **_QUIET,
            )
            break
        except Exception as error:  # Ray raises several types
            ray.shutdown()
            if not tries_left:
                raise PrismError(
                    f"Ray did not start on this machine: {one_line(error)} Its logs are in "
                    f"{_LOGS}; run the same command again once the machine is less busy, or use "
                    "backend process"
                ) from error
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def require_ray(settings: Settings) -> None:
    """Check that settings for Ray can work, without starting anything.

    Raises:
        UsageError: Ray is not installed, one device is named for several workers, or the
            cluster's address is malformed.
        PrismError: Nothing answers at the cluster's address.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "backend ray needs Ray, which is not installed: pip install 'ray>=2.52', or use "
            "backend process"
        )
    if ":" in settings.device:
        raise UsageError(
            f"device {settings.device!r} does not go with backend ray, which gives every worker a "
            "GPU of its own; use device auto, and CUDA_VISIBLE_DEVICES to leave some GPUs out"
        )
    address = settings.ray_address
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(
            f"ray_address {address!r} is no address; use HOST:PORT of the cluster's head as "
            "`ray start` prints it, or auto for the cluster that this machine belongs to, or leave "
            "it out to work on this machine alone"
        )
    try:  # Ray itself would try for minutes
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # the latter for a malformed host name
        raise _unreachable(address, error) from None


def _is_connected() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _set_environment(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _assignments(variables: dict[str, str]) -> str:
    return " and ".join(f"{name}={value}" for name, value in variables.items())


def _unreachable(address: str, error: Exception) -> PrismError:
    return PrismError(
        f"no Ray cluster answers at {address}: {one_line(error)}; start one there "
        "with `ray start --head`, correct ray_address, or leave it out to work on this machine "
        "alone"
    )
