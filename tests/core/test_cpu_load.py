"""The load of other processes, and the choice of how threads wait beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from prism_nb.core import cpu_load
from prism_nb.core.cpu_load import OtherLoad, choose_wait_policy

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@contextmanager
def busy_process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
        time.sleep(0.5)  # until it runs
        try:
            yield
        finally:
            loop.kill()


def test_work_of_this_process_is_no_load_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = psutil.Process()
    # As if no other process used any time.
    monkeypatch.setattr(cpu_load.psutil, "cpu_times", own.cpu_times)
    load = OtherLoad()
    begin = time.process_time()
    while time.process_time() - begin < 0.3:
        pass
    assert load.cores() < 0.1


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without OpenMP's variables, of a process that has not imported torch."""
    for name in (*VARIABLES, "PRISM_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("busy", "threads", "policy"),
    [
        (0.1, None, None),
        (1.0, None, "PASSIVE"),
        (1.0, "2", None),  # of four cores
        (3.0, "2", "PASSIVE"),
        (1.0, "all", "PASSIVE"),
        (1.0, "9", "PASSIVE"),
    ],
)
def test_threads_wait_passively_where_cores_are_shared(
    environment: pytest.MonkeyPatch, busy: float, threads: str | None, policy: str | None
) -> None:
    environment.setattr(OtherLoad, "cores", lambda _: busy)
    environment.setattr(cpu_load.psutil, "cpu_count", lambda: 4)
    if threads:
        environment.setenv("OMP_NUM_THREADS", threads)
    choose_wait_policy()
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize("name", VARIABLES[:3])
def test_what_a_user_has_set_stays(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setattr(OtherLoad, "cores", lambda _: 1.0)
    environment.setenv(name, "7")
    choose_wait_policy()
    assert {each: os.environ[each] for each in VARIABLES if each in os.environ} == {name: "7"}


def test_a_child_process_chooses_for_itself(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(OtherLoad, "cores", lambda _: 1.0)
    choose_wait_policy()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    environment.setattr(OtherLoad, "cores", lambda _: 0.0)
    choose_wait_policy()  # as a child does, which inherits the environment
    assert "OMP_WAIT_POLICY" not in os.environ


def test_a_process_beside_a_busy_one_waits_passively_before_torch_is_imported() -> None:
    code = "import os, sys, prism_nb; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with busy_process():
        found = subprocess.run(
            [sys.executable, "-c", code], env=inherited, check=True, capture_output=True, text=True
        )
    assert found.stdout.split() == ["PASSIVE", "False"]
