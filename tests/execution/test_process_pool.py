"""Calls in processes of their own: results come back, and failures end with one message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from prism_nb.core.errors import PrismError
from prism_nb.execution.process_pool import run_parallel
from prism_nb.execution.study import load_study


def environment_of(item: int) -> tuple[int, int, int]:
    return 3 * item, os.getpid(), torch.get_num_threads()


def test_every_item_is_done_once_by_other_processes_with_one_thread() -> None:
    found = sorted(run_parallel(environment_of, range(5), workers=2))
    assert [(item, tripled) for item, (tripled, _, _) in found] == [(n, 3 * n) for n in range(5)]
    assert os.getpid() not in {process for _, (_, process, _) in found}
    assert {threads for _, (_, _, threads) in found} == {1}


def test_failures_end_with_one_message() -> None:
    with pytest.raises(PrismError, match="unknown study 'nonesuch'"):
        list(run_parallel(load_study, ["nonesuch"], workers=1))
    with pytest.raises(PrismError, match=r"a worker was killed; .* use fewer workers"):
        list(run_parallel(os._exit, [9], workers=1))


PARENT = """
import time
from prism_nb.execution.process_pool import run_parallel
if __name__ == "__main__":
    list(run_parallel(time.sleep, [120], workers=1))
"""


def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, program])
    children = list[psutil.Process]()
    while not any("--multiprocessing-fork" in child.cmdline() for child in children):
        assert parent.poll() is None
        time.sleep(0.1)
        children = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    limit = time.monotonic() + 60
    while any(map(is_alive, children)):
        assert time.monotonic() < limit, "a worker outlives its parent"
        time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
