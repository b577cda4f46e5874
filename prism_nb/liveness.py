"""Which processes live: told apart by what no clock and no container changes."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path

import psutil

_PROC = Path("/proc")


@cache
def process_space() -> str:
    """Return what tells where this process's number means something.

    On Linux the machine's present start and the namespace of processes, which containers on one
    machine do not share; else the machine's name.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def process_start(process: int) -> str | None:
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
