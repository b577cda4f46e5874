"""Who works on what: a file that says so for as long as its owner lives.

A lease is a file with its owner's host and process, whose time of change a thread moves on. It
holds on network shares, where the locks of one machine's kernel say nothing to another, and one
whose owner has died is taken over: at once on the owner's own machine, where that can be seen, and
from elsewhere once the file has stood still for a minute. An owner that only seemed dead finds out
before it writes anything.
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

_BEAT = 10.0  # seconds between two signs of life
_STALE = 60.0  # seconds without one after which an owner elsewhere counts as dead


@dataclass(frozen=True)
class Owner:
    """Who holds a lease.

    Attributes:
        host: Name of the machine, for people.
        space: Where the process's number means something: one machine until it is started anew,
            or one container of it.
        process: Number of the process there.
        begun: When that process was started, so that a number given out anew is told apart.
        token: Tells this lease from every other.
    """

    host: str
    space: str
    process: int
    begun: str
    token: str

    @classmethod
    def here(cls) -> Owner:
        """Return this process as the owner of a new lease."""
        me = os.getpid()
        return cls(
            socket.gethostname(),
            pid_namespace_id(),
            me,
            process_start_time(me) or "",
            secrets.token_hex(8),
        )

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Return who holds the lease at a path; None where nobody does, or the file is torn.

        Raises:
            PrismError: The disk does not say.
        """
        record = fileio.read_record(path)
        kinds = {each.name: int if each.name == "process" else str for each in fields(cls)}
        if {name: type(value) for name, value in record.items()} != kinds:
            return None
        return cls(**record)

    @property
    def is_here(self) -> bool:
        """Whether its process can be seen from this one."""
        return self.space == pid_namespace_id()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class LeaseHeldError(PrismError):
    """Somebody else holds the lease.

    Args:
        owner: Who; None where the file does not say.
    """

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(f"held by {owner or 'an unknown process'}")
        self.owner = owner


class LeaseLostError(PrismError):
    """Somebody else has taken a lease over, since its owner gave no sign of life for so long."""


class Lease:
    """The right to work on something, held as a context.

    Args:
        path: The file that stands for it.
        on_takeover: Told who held it before and has died.

    Raises:
        HeldError: On entering, where somebody holds it who is alive.
        PrismError: On entering, where the folder cannot be written.
    """

    def __init__(self, path: Path, on_takeover: Callable[[Owner | None], None] | None = None):
        self._path, self._on_takeover = path, on_takeover
        self._owner = Owner.here()
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name=f"lease {path.name}")

    def __enter__(self) -> Self:
        try:
            if not self._create():
                self._take_over()
        except OSError as error:
            what = error.strerror or error
            raise PrismError(f"cannot write to {self._path.parent}: {what}") from error
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heart.join()
        # A disk that does not answer leaves the file standing still, which gives it up as well.
        with contextlib.suppress(OSError, PrismError):
            if self.is_mine:
                self._path.unlink(missing_ok=True)

    @property
    def is_mine(self) -> bool:
        """Whether it still is this owner's: one that was thought dead may find it taken over.

        Raises:
            PrismError: The disk does not say.
        """
        return Owner.read(self._path) == self._owner

    def require(self) -> None:
        """Make sure that it still is this owner's, before something is written in its name.

        Raises:
            LostError: It is not.
            PrismError: The disk does not say.
        """
        owner = Owner.read(self._path)
        if owner != self._owner:
            raise LeaseLostError(
                f"{self._path.stem} was taken over by {owner or 'somebody who has finished since'}"
                f", since this process gave no sign of life for {_STALE:.0f} s (was it stopped, or "
                "the disk away?). It is not finished here; run the same command again to go on"
            )

    def _create(self) -> bool:
        return fileio.create_exclusive(self._path, fileio.json_bytes(asdict(self._owner)))

    def _take_over(self) -> None:
        """Replace a dead owner's file; of several that try, one succeeds."""
        with fileio.exclusive_lock(self._path.with_name(".takeover")):
            before = Owner.read(self._path)
            if self._path.exists() and is_alive(self._path):
                raise LeaseHeldError(before)
            self._path.unlink(missing_ok=True)
            if not self._create():
                raise LeaseHeldError(Owner.read(self._path))
        if self._on_takeover is not None:
            self._on_takeover(before)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT):
            # A share that is gone for a while may come back.
            with contextlib.suppress(OSError, PrismError):
                if not self.is_mine:
                    return
                os.utime(self._path)


def is_alive(path: Path) -> bool:
    """Return whether the owner of a lease's file shows signs of life."""
    owner = Owner.read(path)
    if owner is not None and owner.is_here:
        return process_start_time(owner.process) == owner.begun
    return seconds_since_heartbeat(path) < _STALE


def seconds_since_heartbeat(path: Path) -> float:
    """Return for how many seconds a file has stood still, by the clock of the disk it is on."""
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


_PROC = Path("/proc")


@cache
def pid_namespace_id() -> str:
    """Return what tells where this process's number means something.

    On Linux the machine's present start and the namespace of processes, which containers on one
    machine do not share; else the machine's name.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def process_start_time(process: int) -> str | None:
    """Return when a process of this space was started; None where it has ended.

    On Linux in ticks since the machine's start, which stay as they are when its clock is set.

    Args:
        process: Its number.
    """
    if not (_PROC / "self/stat").exists():
        return _start_by_clock(process)
    try:
        text = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field, the command in brackets, may hold blanks and brackets itself.
    state, *others = text.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else others[18]


def _start_by_clock(process: int) -> str | None:
    try:
        found = psutil.Process(process)
        ended = found.status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return None
    return None if ended else f"{found.create_time():.0f}"
