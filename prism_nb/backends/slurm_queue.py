"""What SLURM's queue holds of this user, and since when it has not said so."""

from __future__ import annotations

import os
import subprocess
import time

_ASK = 15.0  # seconds between two questions to the queue, which all of a cluster's users share
_PATIENCE = 60.0  # seconds in which a busy queue must answer
_SILENCE = 180.0  # seconds without an answer, after which that is worth a word


class Queue:
    """The user's jobs that wait or run, asked for now and then."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._jobs: dict[str, str] | None = None
        self._answered, self._why = time.time(), ""

    def jobs(self) -> dict[str, str] | None:
        """Return the names of the jobs by id, each element of an array by itself.

        None where the queue does not answer, which says nothing of the jobs.
        """
        now = time.monotonic()
        if self._asked is None or now - self._asked >= _ASK:
            self._asked, self._jobs = now, self._ask()
        return self._jobs

    def ask_anew(self) -> None:
        """Let the next look be a question, whenever the last one was."""
        self._asked = None

    @property
    def silence(self) -> str:
        """Since when the queue has not answered, in words; empty where it has of late."""
        if not self._why or time.time() - self._answered < _SILENCE:
            return ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._answered))
        return f"squeue has not answered since {since} ({self._why}); the jobs are waited for"

    def _ask(self) -> dict[str, str] | None:
        try:
            lines = _squeue().splitlines()
        except subprocess.TimeoutExpired:
            self._why = f"no answer within {_PATIENCE:.0f} s"
        except subprocess.CalledProcessError as error:
            self._why = " ".join(error.stderr.split()) or f"exit code {error.returncode}"
        except OSError as error:
            self._why = str(error)
        else:
            self._answered, self._why = time.time(), ""
            return {number: name for number, _, name in (line.partition(" ") for line in lines)}
        return None


def _squeue() -> str:
    user = str(os.getuid())  # not the name, which a node need not know
    done = subprocess.run(  # noqa: S603
        ["squeue", "--noheader", "--array", "--format=%i %j", "--user", user],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=True,
    )
    return done.stdout
