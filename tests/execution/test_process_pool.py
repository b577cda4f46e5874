"""Calls in processes of their own: results come back, and failures end with one message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prism_nb.core.errors import PrismError
from prism_nb.execution.process_pool import Call, run_calls


def call(name: str, function: str, *arguments: object) -> Call:
    return Call(name, function, arguments)


def test_every_call_is_done_once_and_named() -> None:
    calls = [call(str(n), "operator:mul", n, n) for n in range(5)]
    assert sorted(run_calls(calls, workers=2)) == [(str(n), n * n) for n in range(5)]


def test_nothing_to_do_starts_nothing() -> None:
    assert list(run_calls([], workers=2)) == []


def test_workers_are_other_processes_with_one_thread() -> None:
    calls = [call("pid", "os:getpid"), call("threads", "torch:get_num_threads")]
    found = dict(run_calls(calls, workers=1))
    assert found["pid"] != os.getpid()
    assert found["threads"] == 1


def test_a_failed_call_ends_with_its_own_message() -> None:
    calls = [call("bad", "prism_nb.execution.study:load_study", "nonesuch")]
    with pytest.raises(PrismError, match="unknown study 'nonesuch'"):
        list(run_calls(calls, workers=1))


def test_a_killed_worker_ends_with_what_to_do() -> None:
    calls = [call("dies", "os:_exit", 9)]
    with pytest.raises(PrismError, match=r"a worker was killed; .* use fewer workers"):
        list(run_calls(calls, workers=1))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")
def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "from prism_nb.execution.process_pool import Call, run_calls\n"
        "if __name__ == '__main__':\n"
        "    calls = [Call('pid', 'os:getpid', ()), Call('sleep', 'time:sleep', (120,))]\n"
        "    for name, result in run_calls(calls, workers=1):\n"
        "        print(result, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    limit = time.monotonic() + 20
    while is_alive(worker):
        assert time.monotonic() < limit, "the worker outlives its parent"
        time.sleep(0.1)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
