"""Parallel calls in separate processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from prism_nb.core.errors import PrismError
from prism_nb.execution.worker import import_function


@dataclass(frozen=True)
class Call:
    """A call to make in a worker.

    Attributes:
        name: Name of the call's result.
        function: `module:function`.
        arguments: Its arguments; they and the result are pickled between processes of one machine.
    """

    name: str
    function: str
    arguments: tuple[Any, ...]


def run_calls(calls: Sequence[Call], *, workers: int) -> Iterator[tuple[str, Any]]:
    """Make calls in processes with one CPU thread each.

    Args:
        calls: The calls, in the order in which they start.
        workers: Number of processes, at least 1.

    Yields:
        Name and result of each call, as soon as it has ended.

    Raises:
        PrismError: A call failed, or a worker was killed, as happens when memory runs out. Running
            calls are ended, and later ones not started.
    """
    if not calls:
        return
    context = multiprocessing.get_context("spawn")  # a forked torch would hang
    executor = ProcessPoolExecutor(
        min(workers, len(calls)), mp_context=context, initializer=_begin_worker
    )
    names = {executor.submit(_make, call): call.name for call in calls}
    try:
        for future in as_completed(names):
            yield names[future], future.result()
        executor.shutdown()
    except BrokenProcessPool:
        raise PrismError(
            "a worker was killed; out of memory is the usual cause: use fewer workers. "
            "Finished work is kept: run the same command to continue"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _begin_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End a worker whose parent was killed, instead of waiting for calls that never come."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(call: Call) -> Any:
    return import_function(call.function)(*call.arguments)
