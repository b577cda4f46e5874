"""Parallel calls in separate processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from prism_nb.core.errors import PrismError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Iterator[tuple[Item, Result]]:
    """Call a function for every item, in processes with one CPU thread each.

    Function and items are pickled; calls start in the order of the items.

    Yields:
        Item and result of each call, as soon as it has ended.
    """
    context = multiprocessing.get_context("spawn")  # a forked torch would hang
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    calls = {executor.submit(function, item): item for item in items}
    try:
        for call in as_completed(calls):
            yield calls[call], call.result()
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
