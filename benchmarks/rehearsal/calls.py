"""Calls of `prism-nb` in processes of their own: watched, and killed if asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.common import ROOT
from benchmarks.rehearsal.scale import Place

_PROGRAM = "from prism_nb.cli import main; main()"
_STAGE = re.compile(r"^(\d\d_\w+) .*, (\d+) s$", re.MULTILINE)
_SLICE = 0.05  # seconds between two looks
_SAMPLE = 0.5  # seconds between two samples of the memory


@dataclass
class Call:
    """A call of the command.

    Attributes:
        status: Exit status; -9 where it was killed.
        output: What it has printed.
        seconds: Wall time.
        peaks: Most memory of all its processes together, in bytes, by the number of notebooks that
            it had finished by then; without pages of files, which the system may take back.
    """

    status: int
    output: str
    seconds: float
    peaks: dict[int, int] = field(default_factory=dict)

    @property
    def stages(self) -> dict[str, int]:
        """Wall time of each notebook that it has finished, in seconds."""
        return {name: int(seconds) for name, seconds in _STAGE.findall(self.output)}


def prism(
    place: Place, what: str, *arguments: str, kill_when: Callable[[], bool] | None = None
) -> Call:
    """Call `prism-nb`, and kill it and all that it has started once a condition holds.

    What it prints is kept in the rehearsal's folder, too, under what the call is for.
    """
    log = place.folder / f"{what}.log"
    begin = time.monotonic()
    with log.open("wb") as out:
        child = psutil.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(place),
            cwd=place.folder,
            start_new_session=True,
        )
        try:
            peaks = _watch(child, log, kill_when)
        finally:
            kill_tree(child)
    text = log.read_text(encoding="utf-8", errors="replace")
    return Call(child.returncode, text, time.monotonic() - begin, peaks)


def environment(place: Place) -> dict[str, str]:
    """Return the variables that lead a call to this clone and to a rehearsal's folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "PRISM_HOME": str(ROOT),
        "PRISM_RUNS": str(place.run.parent.absolute()),
        "PRISM_CACHE": str(place.cache.absolute()),
    }


def kill_tree(child: psutil.Popen) -> None:
    """Kill a process group and whatever its processes have started in groups of their own.

    A kernel is such: it would outlive the command that waits for it by a second or so.
    """
    started = _family(child)
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()
    psutil.wait_procs(started, timeout=30)


def _watch(child: psutil.Popen, log: Path, kill_when: Callable[[], bool] | None) -> dict[int, int]:
    peaks: dict[int, int] = {}
    due = time.monotonic()
    while child.poll() is None:
        if kill_when is not None and kill_when():
            kill_tree(child)
        elif time.monotonic() >= due:
            finished = len(_STAGE.findall(log.read_text(encoding="utf-8", errors="replace")))
            peaks[finished] = max(peaks.get(finished, 0), own_memory([child, *_family(child)]))
            due = time.monotonic() + _SAMPLE
        time.sleep(_SLICE)
    return peaks


def _family(child: psutil.Popen) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(child.children(recursive=True))
    return []


def own_memory(processes: Sequence[psutil.Process]) -> int:
    """Return the memory of processes, in bytes, without the pages of files that they map."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            held = process.memory_info()
            total += held.rss - getattr(held, "shared", 0)
    return total
