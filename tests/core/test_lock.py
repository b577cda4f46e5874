"""Leases: one holder at a time, whoever tries, and the dead one's place is taken."""

from __future__ import annotations

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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "stage.json"


def write_owner(path: Path, **changes: object) -> Owner:
    owner = replace(Owner.here(), **changes)
    fileio.write_json(path, asdict(owner))
    return owner


def test_only_one_holds_it_and_it_is_free_afterwards(path: Path) -> None:
    with Lease(path):
        with pytest.raises(LeaseHeldError) as caught, Lease(path):
            pass
        assert caught.value.owner is not None
        assert caught.value.owner.process == os.getpid()
    assert not path.exists()
    with Lease(path) as again:
        assert again.is_mine


def test_owner_of_another_machine_is_believed_while_its_file_moves(path: Path) -> None:
    write_owner(path, host="elsewhere", space="elsewhere", process=1)
    with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"), Lease(path):
        pass


def test_owner_of_another_machine_is_dead_once_its_file_stands_still(path: Path) -> None:
    before = write_owner(path, host="elsewhere", space="elsewhere", process=1)
    long_ago = time.time() - 61
    os.utime(path, (long_ago, long_ago))
    told: list[Owner | None] = []
    with Lease(path, told.append) as lease:
        assert lease.is_mine
    assert told == [before]


def test_owner_on_this_machine_is_dead_with_its_process(path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_owner(path, process=ended.pid)
    assert not is_alive(path)


def test_number_of_a_process_given_out_anew_is_no_sign_of_life(path: Path) -> None:
    write_owner(path, begun="1")
    assert not is_alive(path)


def test_process_that_has_ended_and_is_not_waited_for_is_dead(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_owner(path, process=child.pid, begun=process_start_time(child.pid))
    assert is_alive(path)
    child.kill()
    deadline = time.monotonic() + 10
    while is_alive(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.communicate()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}', b"\xff\x00"])
def test_torn_file_counts_as_held_until_it_has_stood_still(path: Path, content: bytes) -> None:
    fileio.write_bytes(path, content)
    with pytest.raises(LeaseHeldError, match="unknown"), Lease(path):
        pass
    os.utime(path, (1, 1))
    with Lease(path) as lease:
        assert lease.is_mine


def test_signs_of_life_are_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.01)
    with Lease(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_owner_that_was_thought_dead_leaves_the_new_ones_file(path: Path) -> None:
    with Lease(path) as lease:
        other = write_owner(path, host="elsewhere", token="other")
        assert not lease.is_mine
    assert Owner.read(path) == other


def test_owner_that_was_thought_dead_is_told_before_it_writes(path: Path) -> None:
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


def test_signs_of_life_end_where_the_lease_is_anothers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.01)
    with Lease(path) as lease:
        write_owner(path, token="other")
        os.utime(path, (1, 1))
        lease._heartbeat.join(10)
        assert not lease._heartbeat.is_alive()
        assert path.stat().st_mtime == 1


def test_owner_in_another_container_is_believed_while_its_file_moves(path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_owner(path, space="another", process=ended.pid)
    assert is_alive(path)
    os.utime(path, (1, 1))
    assert not is_alive(path)


@pytest.mark.parametrize(
    "wrong", [{"process": "x"}, {"process": True}, {"begun": None}, {"begun": 1.0}, {"more": 1}]
)
def test_owner_of_strange_values_is_unknown(path: Path, wrong: dict[str, object]) -> None:
    fileio.write_json(path, {**asdict(Owner.here()), **wrong})
    assert Owner.read(path) is None
    assert is_alive(path)


def test_disk_that_does_not_answer_gives_no_lease_away(
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
    assert path.exists()  # it stands still from now on, and is taken over


def test_of_many_that_take_a_dead_ones_place_one_succeeds(path: Path) -> None:
    write_owner(path, begun="1")
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


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PrismError, match=f"cannot write to {tmp_path / 'file'}"):
        Lease(tmp_path / "file" / "x.json").__enter__()


def test_owner_names_host_and_process() -> None:
    assert str(Owner.here()) == f"process {os.getpid()} on {socket.gethostname()}"
