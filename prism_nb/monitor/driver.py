"""Who drives the synthesis of a run; starting and stopping it from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from prism_nb.errors import PrismError
from prism_nb.monitor import STAGE
from prism_nb.run import Run

_TAIL = 2_000  # bytes of a log's end that are read


@dataclass(frozen=True)
class Driver:
    """A process that holds the stage.

    Attributes:
        process: Its number.
        host: Its machine's name.
    """

    process: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()

    @property
    def can_be_stopped(self) -> bool:
        """Whether it can be stopped from this process: a kernel hears nothing while it works."""
        return self.is_here and self.process != os.getpid()

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does: finished units stay, the one at work is given up.

        Raises:
            PrismError: It is elsewhere, or someone else's.
        """
        if not self.is_here:
            raise PrismError(
                f"process {self.process} drives the run on {self.host}, not "
                "on this machine; stop it there"
            )
        try:
            os.kill(self.process, signal.SIGINT)
        except ProcessLookupError:
            return  # it has ended meanwhile
        except PermissionError as error:
            raise PrismError(
                f"process {self.process} is another user's ({error.strerror}); ask them to stop it"
            ) from None


def driver_of(run: Run) -> Driver | None:
    """Return who holds the stage; None where nobody does."""
    owner = run.driver(STAGE)
    if owner is None:
        return None
    # The number of a process in another container of this machine means nothing here.
    apart = owner.host == socket.gethostname() and not owner.is_here
    return Driver(owner.process, f"another container of {owner.host}" if apart else owner.host)


def start(run: Run) -> subprocess.Popen[bytes]:
    """Do what is left in a process of its own, which outlives this one; it writes `logs/`.

    Raises:
        PrismError: The run cannot be written to.
    """
    path = log_path(run)
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, STAGE]
    try:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # whoever still writes to the old one keeps that
        with path.open("xb") as log:
            return subprocess.Popen(  # noqa: S603 (our own module)
                [*command, "--runs-dir", str(run.path.absolute().parent)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise PrismError(f"cannot start: {error.strerror or error} ({path})") from error


def log_path(run: Run) -> Path:
    """Return where a process that was started here says what it has to say."""
    return run.file(f"logs/{STAGE}.log")


def last_words(run: Run) -> str:
    """Return the last line of the log; empty where there is none."""
    try:
        text = log_path(run).read_bytes()[-_TAIL:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
