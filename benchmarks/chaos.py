"""Random kills of workers and drivers, after which nothing may be lost: `make chaos`.

A run of the digits under Ray, from squeeze to evaluation, is killed again and again and continued
each time; when it is finished, a new one begins. All must end with the files that an undisturbed
run in one process makes.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.common import ROOT, small_run
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.ray_backend import local_cluster

_SETTINGS: dict[str, Any] = {
    "batch_size": 10,
    "recipe": {"iterations": 100},
    "label_epochs": 8,
    "student_seeds": 4,
    "real_per_class": 20,
    "device": "cpu",
}
_PATIENCE = 300.0  # seconds for a driver to begin a unit
_BETWEEN = 5.0  # the longest time between two kills, in mean times of a unit
_DRIVERS = 0.1  # share of the kills that hit a driver, whose workers must then all be restarted
_DRIVER = """import sys; from pathlib import Path
from prism_nb.core.run import Run; from prism_nb.execution import pipeline
run = Run.open(Path(sys.argv[1]))
for stage in pipeline.STAGES: pipeline.execute(run, stage)"""


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option("--ipc", default=12, show_default=True, help="images per class, a unit each")
@click.option("--workers", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, ipc: int, workers: int, seed: int) -> None:
    """Kill workers and drivers at random; exits with 1 if a file is lost."""
    chaos = Chaos(kills, seed)
    with tempfile.TemporaryDirectory() as folder, local_cluster(cpus=workers, gpus=0) as address:
        chaos.disturb(Path(folder), ipc, ray_address=address, workers=workers)
    raise SystemExit(1 if chaos.lost else 0)


class Chaos:
    """Kills at random, and their cost.

    Args:
        kills: Kills to make at least; the last run is finished undisturbed.
        seed: Decides which process is killed and when.

    Attributes:
        counts: Killed `workers` and `drivers`, and finished `runs`.
        lost: Files that were finished and later gone or changed, or that differ at the end.
    """

    def __init__(self, kills: int, seed: int) -> None:
        self._kills_left, self._random = kills, random.Random(seed)  # noqa: S311 (no secret)
        self.counts, self.lost = Counter[str](), list[str]()

    def disturb(self, folder: Path, ipc: int, **ray: Any) -> None:
        """Compare run after run with an undisturbed one, until all kills are made."""
        plain = _new_run(folder / "undisturbed", ipc=ipc)
        for stage in pipeline.STAGES:
            pipeline.execute(plain, stage)
        units = [unit for stage in pipeline.STAGES for unit in pipeline.stage_units(plain, stage)]
        seconds = statistics.mean(plain.units.record(unit)["seconds"] for unit in units)
        wanted = _contents(plain)
        while self._kills_left > 0:
            run = _new_run(folder / str(self.counts["runs"]), ipc=ipc, backend="ray", **ray)
            self._finish(run, pause=_BETWEEN * seconds)
            found = _contents(run)
            self.lost += sorted(p for p in wanted | found if wanted.get(p) != found.get(p))
            self.counts["runs"] += 1
            print(f"{dict(self.counts)}, {len(self.lost)} files lost", flush=True)

    def _finish(self, run: Run, pause: float) -> None:
        """Complete a run, with kills on the way, at most `pause` seconds apart."""
        finished: dict[str, Any] = {}
        while any(pipeline.state(run, stage).missing for stage in pipeline.STAGES):
            command = [sys.executable, "-c", _DRIVER, str(run.path)]
            driver, before = subprocess.Popen(command, cwd=ROOT), self._kills_left  # noqa: S603
            while driver.poll() is None and self._kills_left > 0 and _at_work(run, driver):
                time.sleep(self._random.uniform(0, pause))
                self._kill(run, driver)
                found = _contents(run)
                self.lost += [path for path, old in finished.items() if found.get(path) != old]
                finished |= found
            if driver.wait() > 0 and self._kills_left == before:
                raise SystemExit(f"the driver of {run.path} failed, and nothing was killed")

    def _kill(self, run: Run, driver: subprocess.Popen[bytes]) -> None:
        """Kill the driver, one time in ten, or a worker that holds a unit, if there is one."""
        if self._random.random() < _DRIVERS:
            if driver.poll() is None:
                driver.kill()
                driver.wait()
                self.counts["drivers"] += 1
                self._kills_left -= 1
        elif workers := _workers(run, driver):
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(workers), signal.SIGKILL)
                self.counts["workers"] += 1
                self._kills_left -= 1


def _new_run(folder: Path, **changes: Any) -> Run:
    """Open a run in a folder of its own, where no other run's teachers can be reused."""
    return small_run(folder, "run", ("test_resnet", "test_byobnet"), **_SETTINGS, **changes)


def _contents(run: Run) -> dict[str, Any]:
    """Return the records of all finished units, without the seconds, and their files' hashes."""
    found: dict[str, Any] = {}
    for stage in pipeline.STAGES:
        for unit in pipeline.stage_units(run, stage):
            marker = run.units.marker(unit) if run.units.is_done(unit) else None
            if marker is None:
                continue
            found[unit.marker] = {k: v for k, v in marker["record"].items() if k != "seconds"}
            # JSON files repeat the record, seconds included.
            found |= {p: h for p, h in marker["files"].items() if not p.endswith(".json")}
    return found


def _at_work(run: Run, driver: subprocess.Popen[bytes]) -> bool:
    """Wait until a worker holds a unit; False if the driver ends before."""
    deadline = time.monotonic() + _PATIENCE
    while driver.poll() is None:
        if _workers(run, driver):
            return True
        if time.monotonic() > deadline:
            driver.kill()
            raise SystemExit(f"no unit of {run.path} was begun in {_PATIENCE:.0f} s")
        time.sleep(0.02)
    return False


def _workers(run: Run, driver: subprocess.Popen[bytes]) -> list[int]:
    """Return the living processes of this machine that hold a unit, except the driver."""
    owners = [Owner.read(path) for path in sorted(run.path.glob("locks/*/*.json"))]
    living = {owner.process for owner in owners if owner and psutil.pid_exists(owner.process)}
    return sorted(living - {driver.pid})


if __name__ == "__main__":
    main()
