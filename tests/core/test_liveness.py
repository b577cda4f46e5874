"""Which processes live."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prism_nb.core import lock
from prism_nb.core.lock import pid_namespace_id, process_start_time

LINUX = Path("/proc/self/stat").exists()


@pytest.fixture(params=["proc", "psutil"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to ask, whatever this system has."""
    if request.param == "proc" and not LINUX:
        pytest.skip("this system has no /proc")
    if request.param == "psutil":
        monkeypatch.setattr(lock, "_PROC", Path("/nowhere"))
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_process_was_started_once() -> None:
    assert process_start_time(os.getpid()) == process_start_time(os.getpid()) is not None


@pytest.mark.usefixtures("way")
def test_an_ended_process_has_no_start_waited_for_or_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start_time(child.pid) is not None
    child.kill()
    deadline = time.monotonic() + 10
    while process_start_time(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.communicate()
    assert process_start_time(child.pid) is None


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("process", [-1, 10**12])
def test_numbers_of_no_process_have_no_start(process: int) -> None:
    assert process_start_time(process) is None


@pytest.mark.skipif(not LINUX, reason="this system has no /proc")
def test_a_name_with_brackets_and_blanks_does_not_confuse(tmp_path: Path) -> None:
    strange = tmp_path / "a) Z 1 (b"
    strange.symlink_to(sys.executable)
    child = subprocess.Popen([strange, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert int(process_start_time(child.pid) or "") >= int(
            process_start_time(os.getpid()) or ""
        )
    finally:
        child.kill()
        child.communicate()


def test_a_space_is_one_and_the_same() -> None:
    assert pid_namespace_id() == pid_namespace_id() != ""
