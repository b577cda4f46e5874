"""Tasks side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from prism_nb.core.errors import PrismError
from prism_nb.execution.worker import import_function


@dataclass(frozen=True)
class Call:
    """A call to make in a worker.

    Attributes:
        name: What people call it.
        function: `module:function`.
        arguments: Its arguments; they and the result are pickled between processes of one machine.
    """

    name: str
    function: str
    arguments: tuple[Any, ...]


def run_calls(tasks: Sequence[Call], *, workers: int) -> Iterator[tuple[str, Any]]:
    """Carry tasks out, at most so many at once, each in a process with one CPU thread.

    Args:
        tasks: What to do, in the order in which it is begun.
        workers: Processes, at least 1.

    Yields:
        A task's name and result, as soon as it is done.

    Raises:
        PrismError: A task failed; those that are under way are ended, later ones not begun. Also
            where a worker was killed, as happens when memory runs out.
    """
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")  # a forked torch would hang
    executor = ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_begin_worker
    )
    futures: dict[Future[Any], Call] = {executor.submit(_do, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future].name, future.result()
        executor.shutdown()
    except BrokenProcessPool:
        raise PrismError(
            "a worker was killed; out of memory is the usual cause: ask for fewer workers. "
            "Finished work is kept: run the same command to continue"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _begin_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End a worker whose parent was killed, instead of waiting for tasks that never come."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(task: Call) -> Any:
    return import_function(task.function)(*task.arguments)
