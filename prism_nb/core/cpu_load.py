"""CPU load of other processes, and how OpenMP's threads wait for each other beside them."""

from __future__ import annotations

import os
import sys
import time

import psutil

_VARIABLES = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
_CHOSEN = "PRISM_WAIT_POLICY"  # set where the kit has chosen: a child process chooses for itself
_SECONDS = 0.05  # of the measurement
_BUSY_CORES = 0.5


class OtherLoad:
    """CPU time that other processes use, from the moment this is made."""

    def __init__(self) -> None:
        self._begin, self._used = time.monotonic(), _other_cpu_seconds()

    def cores(self) -> float:
        """Return the mean number of CPU cores that other processes kept busy."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        return max(0.0, _other_cpu_seconds() - self._used) / seconds


def _other_cpu_seconds() -> float:
    used, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return used.user + used.system - own.user - own.system


def choose_wait_policy() -> None:
    """Have OpenMP's threads wait passively if other processes need the cores of this one.

    By default a thread spins while it waits for others. Alone that is fastest; beside a busy
    process it makes a step many times as long, since the threads waited for get no core. OpenMP
    reads its variables when torch is imported; those that a user has set are left alone.
    """
    if os.environ.pop(_CHOSEN, None) and os.environ.get("OMP_WAIT_POLICY") == "PASSIVE":
        del os.environ["OMP_WAIT_POLICY"]
    if "torch" in sys.modules or os.environ.keys() & _VARIABLES:
        return
    load = OtherLoad()
    time.sleep(_SECONDS)
    cores = psutil.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    free = cores - min(cores, int(threads)) if threads.isdigit() else 0
    if load.cores() > free + _BUSY_CORES:
        os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", _CHOSEN: "1"})
