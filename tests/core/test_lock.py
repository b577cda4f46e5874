"""Leases: one holder at a time, and takeover from dead owners."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from prism_nb.core import fileio, lock
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import (
    Lease,
    LeaseHeldError,
    LeaseLostError,
    Owner,
    is_alive,
    process_start_time,
)
from prism_nb.core.run import Run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "stage.json"


def lease_of(path: Path) -> Lease:
    return Lease(path, "the work", lambda owner: None)


def write_owner(path: Path, **changes: object) -> Owner:
    owner = replace(Owner.current(), **changes)
    fileio.write_json(path, asdict(owner))
    return owner


def end_a_process() -> int:
    """Return the number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- leases ----------------------------------------------------------------------------------


def test_one_owner_at_a_time(path: Path) -> None:
    with lease_of(path):
        with pytest.raises(LeaseHeldError) as caught, lease_of(path):
            pass
        assert caught.value.owner is not None
        assert caught.value.owner.process == os.getpid()
    assert not path.exists()
    with lease_of(path) as again:
        assert again.is_mine


def test_a_remote_owner_is_dead_after_a_minute_without_changes(path: Path) -> None:
    before = write_owner(path, host="elsewhere", pid_namespace="elsewhere", process=1)
    with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"), lease_of(path):
        pass
    long_ago = time.time() - 61
    os.utime(path, (long_ago, long_ago))
    owners: list[Owner | None] = []
    with Lease(path, "the work", owners.append) as lease:
        assert lease.is_mine
    assert owners == [before]


def test_a_reused_process_number_is_another_process(path: Path) -> None:
    write_owner(path, started="1")
    assert not is_alive(path)


def test_a_zombie_is_dead(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_owner(path, process=child.pid, started=process_start_time(child.pid))
    assert is_alive(path)
    child.kill()
    wait_until(lambda: not is_alive(path))
    child.communicate()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"host": "x"}', b"\xff\x00"])
def test_a_damaged_file_is_held_for_a_minute(path: Path, content: bytes) -> None:
    fileio.write_bytes(path, content)
    with pytest.raises(LeaseHeldError, match="another process"), lease_of(path):
        pass
    os.utime(path, (1, 1))
    with lease_of(path) as lease:
        assert lease.is_mine


def test_a_lost_lease_is_found_before_writing(path: Path) -> None:
    with lease_of(path) as lease:
        lease.check()
        write_owner(path, host="elsewhere", token="other")
        with pytest.raises(
            LeaseLostError, match=r"stage was taken over by process \d+ on elsewhere"
        ):
            lease.check()
        path.unlink()
        with pytest.raises(LeaseLostError, match="a process that has ended"):
            lease.check()


def test_the_heartbeat_updates_a_lease_until_it_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.01)  # the production interval is ten seconds
    with lease_of(path) as lease:
        os.utime(path, (1, 1))
        wait_until(lambda: path.stat().st_mtime > 1)
        write_owner(path, token="other")
        lease._heartbeat.join(10)
        assert not lease._heartbeat.is_alive()


def test_a_disk_that_does_not_answer_frees_no_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Path) -> object:
        raise PrismError("cannot read it")

    with lease_of(path) as lease:
        monkeypatch.setattr(fileio, "read_record", away)
        with pytest.raises(PrismError, match="cannot read it"):
            lease.check()
        with pytest.raises(PrismError, match="cannot read it"), lease_of(path):
            pass
    assert path.exists()  # it is not updated from now on, and is taken over


def test_one_of_many_takes_over(path: Path) -> None:
    write_owner(path, started="1")
    won, start = [], threading.Barrier(8)

    def race() -> None:
        start.wait()
        with contextlib.suppress(LeaseHeldError):
            won.append(lease_of(path).__enter__())

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert won[0].is_mine
    won[0].__exit__(None, None, None)


# -- stages ----------------------------------------------------------------------------------


def test_a_dead_owners_stage_is_taken_over(run: Run) -> None:
    file = run.path / "locks" / "relabel.json"
    dead = write_owner(file, process=end_a_process(), started="1", token="dead")
    with run.locks.stage("relabel"):
        assert json.loads(file.read_text())["process"] == os.getpid()
    (event,) = run.events.read("relabel")
    assert event["owner"] == str(dead) == f"process {dead.process} on {socket.gethostname()}"


def test_stages_are_locked_apart_and_freed(run: Run) -> None:
    message = f"stage squeeze of {run.path} is being run by {Owner.current()}; wait for it or stop"
    with run.locks.stage("relabel"), run.locks.stage("squeeze"):
        assert str(run.locks.driver("squeeze")) == str(Owner.current())
        with pytest.raises(PrismError, match=message):
            run.locks.check_free("squeeze")
        with pytest.raises(PrismError, match=message), run.locks.stage("squeeze"):
            pass
    assert run.locks.driver("squeeze") is None
    run.locks.check_free("squeeze")
