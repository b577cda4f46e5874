"""Leases: lock files with a heartbeat that name the process at work on a stage or a unit.

filelock's `SoftFileLease` is not used: it has no public way to read the owner of a lease that is
not acquired, and a contender must wait a minute by its own clock for a dead remote owner, although
the file's modification time gives its age at once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Self

import psutil

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.events import EventLog

_HEARTBEAT = 10.0  # seconds between two updates of a lease's modification time
_STALE = 60.0  # seconds without an update after which an owner elsewhere counts as dead


class Locks:
    """The leases of a run, in its `locks` folder: of stages in progress, and of units.

    Leases work on network shares, where kernel locks have no effect on other machines.
    """

    def __init__(self, folder: Path, events: EventLog) -> None:
        self._folder, self._events = folder, events

    def lease(self, name: str, stage: str) -> Lease:
        """Return the lease of a file's name, as a context; a takeover is an event of the stage."""

        def on_takeover(before: Owner | None) -> None:
            self._events.append(stage, event="lease_takeover", what=name, owner=str(before))

        what = f"stage {stage} of {self._folder.parent}"
        return Lease(self._folder / name, what, on_takeover)

    def stage(self, stage: str) -> Lease:
        """Return the lease of a stage, so that no second process runs it."""
        return self.lease(f"{stage}.json", stage)

    def check_free(self, stage: str) -> None:
        """Check that no process runs a stage."""
        owner = self.driver(stage)
        if owner is not None:
            raise LeaseHeldError(f"stage {stage} of {self._folder.parent}", owner)

    def driver(self, stage: str) -> Owner | None:
        """Return the process that runs a stage now, or None."""
        path = self._folder / f"{stage}.json"
        return Owner.read(path) if path.exists() and is_alive(path) else None


@dataclass(frozen=True)
class Owner:
    """The holder of a lease."""

    host: str  # name of the machine
    pid_namespace: str  # id of the process namespace: a machine since its start, or a container
    process: int  # number in that namespace
    started: str  # start time of the process, which a later one of the same number does not have
    token: str  # random id of the lease

    @classmethod
    def current(cls) -> Owner:
        """Return this process as the owner of a new lease."""
        me = os.getpid()
        started = process_start_time(me) or ""
        return cls(socket.gethostname(), pid_namespace_id(), me, started, secrets.token_hex(8))

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Return the owner recorded in a lease's file; None where it is missing or damaged."""
        record = fileio.read_record(path)
        types = {each.name: int if each.name == "process" else str for each in fields(cls)}
        if {name: type(value) for name, value in record.items()} != types:
            return None
        return cls(**record)

    @property
    def is_here(self) -> bool:
        """Whether the process is in this process's namespace."""
        return self.pid_namespace == pid_namespace_id()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class LeaseHeldError(PrismError):
    """A living process holds the lease; it is unknown where the lease's file is damaged."""

    def __init__(self, what: str, owner: Owner | None) -> None:
        super().__init__(
            f"{what} is being run by {owner or 'another process'}; wait for it or stop it"
        )
        self.owner = owner


class LeaseLostError(PrismError):
    """The lease was taken over, because its owner did not update it for too long."""


class Lease:
    """The exclusive right to work on something, held as a context.

    A thread updates the file's modification time. A dead owner's file is replaced: at once where
    its process namespace is this one, else when the file has not changed for a minute. `what` is
    its name in messages; `on_takeover` is called with the dead owner that was replaced.

    Raises:
        LeaseHeldError: On entering, where a living process holds it.
    """

    def __init__(self, path: Path, what: str, on_takeover: Callable[[Owner | None], object]):
        self._path, self._what, self._on_takeover = path, what, on_takeover
        self._owner = Owner.current()
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._update, daemon=True)

    def __enter__(self) -> Self:
        try:
            if not self._create():
                self._take_over()
        except OSError as error:
            raise fileio.write_error(self._path, error) from error
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heartbeat.join()
        # If the disk is away, the file is no longer updated, which gives it up as well.
        with contextlib.suppress(OSError, PrismError):
            if self.is_mine:
                self._path.unlink(missing_ok=True)

    @property
    def is_mine(self) -> bool:
        """Whether the lease has not been taken over."""
        return Owner.read(self._path) == self._owner

    def check(self) -> None:
        """Check that the lease has not been taken over, before a result is written."""
        owner = Owner.read(self._path)
        if owner != self._owner:
            raise LeaseLostError(
                f"{self._path.stem} was taken over by {owner or 'a process that has ended since'}, "
                f"since this one was suspended, or the disk away, for {_STALE:.0f} s; run the same "
                "command again to continue"
            )

    def _create(self) -> bool:
        return fileio.create_exclusive(self._path, fileio.json_bytes(asdict(self._owner)))

    def _take_over(self) -> None:
        """Replace a dead owner's file; of several processes that try, one succeeds."""
        with fileio.exclusive_lock(self._path.with_name(".takeover")):
            before = Owner.read(self._path)
            if self._path.exists() and is_alive(self._path):
                raise LeaseHeldError(self._what, before)
            self._path.unlink(missing_ok=True)
            if not self._create():
                raise LeaseHeldError(self._what, Owner.read(self._path))
        self._on_takeover(before)

    def _update(self) -> None:
        while not self._released.wait(_HEARTBEAT):
            with contextlib.suppress(OSError, PrismError):  # a share may come back
                if not self.is_mine:
                    return
                os.utime(self._path)


def is_alive(path: Path) -> bool:
    """Return whether the owner of a lease is alive, as far as this process can determine."""
    owner = Owner.read(path)
    if owner is not None and owner.is_here:
        return process_start_time(owner.process) == owner.started
    return _seconds_since_heartbeat(path) < _STALE


def _seconds_since_heartbeat(path: Path) -> float:
    """Return a file's age in seconds since its modification, by the clock of its disk."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    except OSError:
        return time.time() - path.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


@cache
def pid_namespace_id() -> str:
    """Return an id of the namespace of process numbers; the host's name where there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def process_start_time(process: int) -> str | None:
    """Return the start time of a process of this namespace; None where it has ended."""
    try:
        found = psutil.Process(process)
        if found.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
            return None
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists():
            return f"{found.create_time():.0f}"
        # In ticks since boot, which do not change when the clock is set. The second field, the
        # command in brackets, may hold blanks and brackets itself.
        text = stat.read_text(encoding="utf-8", errors="replace")
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None
    return text.rpartition(")")[2].split()[19]
