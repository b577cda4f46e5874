"""A Ray cluster to work on: one made on this machine for a while, or one that is there."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import metadata
from typing import Any
from unittest.mock import patch

from prism_nb.backends.ray_address import find_cluster, unreachable
from prism_nb.errors import PrismError, UsageError
from prism_nb.settings import Settings

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
def connected(settings: Settings, workers: int) -> Iterator[None]:
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
    cpus = max(os.cpu_count() or 1, workers * threads_of(settings))
    return local_cluster(cpus=cpus, gpus=_gpus(settings))


def _connect(address: str) -> None:
    _prepare({"RAY_USAGE_STATS_ENABLED": "0"})
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:  # Ray raises plain ones, by kind of trouble and by version
        raise unreachable(address, _words(error)) from error


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


def threads_of(settings: Settings) -> int:
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
