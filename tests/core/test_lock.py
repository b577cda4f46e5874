"""Leases: one holder at a time, and takeover from dead owners."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
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


def write_owner(path: Path, **changes: object) -> Owner:
    owner = replace(Owner.current(), **changes)
    fileio.write_json(path, asdict(owner))
    return owner


def test_one_owner_at_a_time(path: Path) -> None:
    with Lease(path):
        with pytest.raises(LeaseHeldError) as caught, Lease(path):
            pass
        assert caught.value.owner is not None
        assert caught.value.owner.process == os.getpid()
    assert not path.exists()
    with Lease(path) as again:
        assert again.is_mine


def test_a_remote_owner_lives_while_its_file_changes(path: Path) -> None:
    write_owner(path, host="elsewhere", pid_namespace="elsewhere", process=1)
    with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"), Lease(path):
        pass


def test_a_remote_owner_is_dead_after_a_minute(path: Path) -> None:
    before = write_owner(path, host="elsewhere", pid_namespace="elsewhere", process=1)
    long_ago = time.time() - 61
    os.utime(path, (long_ago, long_ago))
    owners: list[Owner | None] = []
    with Lease(path, owners.append) as lease:
        assert lease.is_mine
    assert owners == [before]


def test_an_owner_in_another_container_is_remote(path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_owner(path, pid_namespace="another", process=ended.pid)
    assert is_alive(path)
    os.utime(path, (1, 1))
    assert not is_alive(path)


def test_a_reused_process_number_is_another_process(path: Path) -> None:
    write_owner(path, started="1")
    assert not is_alive(path)


def test_a_zombie_is_dead(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_owner(path, process=child.pid, started=process_start_time(child.pid))
    assert is_alive(path)
    child.kill()
    deadline = time.monotonic() + 10
    while is_alive(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.communicate()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}', b"\xff\x00"])
def test_a_damaged_file_is_held_for_a_minute(path: Path, content: bytes) -> None:
    fileio.write_bytes(path, content)
    with pytest.raises(LeaseHeldError, match="unknown"), Lease(path):
        pass
    os.utime(path, (1, 1))
    with Lease(path) as lease:
        assert lease.is_mine


def test_a_lost_lease_is_found_before_writing(path: Path) -> None:
    with Lease(path) as lease:
        lease.check()
        write_owner(path, host="elsewhere", token="other")
        with pytest.raises(
            LeaseLostError, match=r"stage was taken over by process \d+ on elsewhere"
        ):
            lease.check()
        path.unlink()
        with pytest.raises(LeaseLostError, match="a process that has ended"):
            lease.check()


def test_a_lost_lease_is_not_updated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.01)
    with Lease(path) as lease:
        write_owner(path, token="other")
        os.utime(path, (1, 1))
        lease._heartbeat.join(10)
        assert not lease._heartbeat.is_alive()
        assert path.stat().st_mtime == 1


def test_a_disk_that_does_not_answer_frees_no_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Path) -> object:
        raise PrismError("cannot read it")

    with Lease(path) as lease:
        monkeypatch.setattr(fileio, "read_record", away)
        with pytest.raises(PrismError, match="cannot read it"):
            lease.check()
        with pytest.raises(PrismError, match="cannot read it"), Lease(path):
            pass
    assert path.exists()  # it is not updated from now on, and is taken over


def test_one_of_many_takes_over(path: Path) -> None:
    write_owner(path, started="1")
    won, start = [], threading.Barrier(8)

    def race() -> None:
        start.wait()
        lease = Lease(path)
        try:
            lease.__enter__()
        except LeaseHeldError:
            return
        won.append(lease)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert won[0].is_mine
    won[0].__exit__(None, None, None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PrismError, match=f"cannot write to {tmp_path / 'file'}"):
        Lease(tmp_path / "file" / "x.json").__enter__()


@pytest.mark.parametrize("process", [-1, 10**12])
def test_numbers_of_no_process_have_no_start_time(process: int) -> None:
    assert process_start_time(process) is None


def test_a_second_lock_of_a_stage_is_refused(run: Run) -> None:
    with (
        run.locks.stage("relabel"),
        pytest.raises(PrismError) as caught,
        run.locks.stage("relabel"),
    ):
        pass
    message = str(caught.value)
    assert "stage relabel" in message
    assert f"process {os.getpid()} on {socket.gethostname()}" in message
    assert "wait for it or stop it" in message


def test_a_dead_owners_stage_is_taken_over(run: Run) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = asdict(replace(Owner.current(), process=ended.pid, started="1", token="dead"))
    fileio.write_json(run.path / "locks" / "relabel.json", dead)
    with run.locks.stage("relabel"):
        owner = json.loads((run.path / "locks" / "relabel.json").read_text())
    assert owner["process"] == os.getpid()
    (event,) = run.events.read("relabel")
    assert event["owner"] == f"process {ended.pid} on {socket.gethostname()}"


def test_the_heartbeat_changes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.01)  # the production interval is ten seconds
    with Lease(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_stages_are_locked_apart_and_freed(run: Run) -> None:
    with run.locks.stage("relabel"), run.locks.stage("squeeze"):
        assert str(run.locks.driver("squeeze")) == str(Owner.current())
        with pytest.raises(PrismError, match="stage squeeze .* is being run by process"):
            run.locks.check_free("squeeze")
    assert run.locks.driver("squeeze") is None
    run.locks.check_free("squeeze")
