"""Kill workers and drivers at random, and check that nothing is lost: `python -m benchmarks.chaos`.

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
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.common import ROOT
from benchmarks.run_contents import contents, finished_units
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import open_run, pipeline
from prism_nb.execution.ray_backend import local_cluster

_SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["prism"],
    "batch_size": 10,
    "recipe": {"iterations": 100},
    "label_epochs": 8,
    "students": ["test_resnet"],
    "student_seeds": 4,
    "real_per_class": 20,
    "device": "cpu",
    "threads": 1,
}
_PATIENCE = 300.0  # seconds for a driver to begin a unit
_BETWEEN = 5.0  # the longest time between two kills, in mean times of a unit
_DRIVERS = 0.1  # share of the kills that hit a driver, whose workers must then all be restarted
_DRIVER = (
    "import sys; from pathlib import Path; from prism_nb.execution import pipeline; "
    "from prism_nb.core.run import Run; run = Run.open(Path(sys.argv[1])); "
    "[pipeline.execute(run, stage) for stage in pipeline.STAGES]"
)


class Chaos:
    """Kills at random, and their cost.

    Args:
        kills: Kills to make at least; the last run is finished undisturbed.
        seed: Decides which process is killed and when.

    Attributes:
        counts: Killed `workers` and `drivers`, finished `runs`, their `units`, and those `redone`.
        lost: Files that were finished and later gone or changed, or that differ at the end.
    """

    def __init__(self, kills: int, seed: int) -> None:
        self._kills, self._random = kills, random.Random(seed)  # noqa: S311 (no secret)
        self.counts, self.lost = Counter[str](), list[str]()

    @property
    def kills_left(self) -> int:
        """Kills that are still to be made."""
        return self._kills - self.counts["workers"] - self.counts["drivers"]

    def disturb(self, folder: Path, ipc: int, **ray: Any) -> None:
        """Compare run after run with an undisturbed one, until all kills are made."""
        plain = _new_run(folder / "undisturbed", ipc=ipc)
        for stage in pipeline.STAGES:
            pipeline.execute(plain, stage)
        wanted, seconds = contents(plain), map(plain.units.record, finished_units(plain))
        pause = _BETWEEN * statistics.mean(record["seconds"] for record in seconds)
        while self.kills_left > 0:
            run = _new_run(folder / str(self.counts["runs"]), ipc=ipc, backend="ray", **ray)
            self._finish(run, pause)
            found = contents(run)
            self.lost += sorted(p for p in wanted | found if wanted.get(p) != found.get(p))
            self.counts["runs"] += 1
            for stage in pipeline.STAGES:
                events = [e for e in run.events.read(stage) if e["event"] == "unit_start"]
                begun = [event["unit"] for event in events]
                self.counts["units"] += len(set(begun))
                self.counts["redone"] += len(begun) - len(set(begun))
            print(f"{dict(self.counts)}, {len(self.lost)} files lost", flush=True)

    def _finish(self, run: Run, pause: float) -> None:
        """Complete a run, with kills on the way."""
        finished: dict[str, str] = {}
        while any(pipeline.plan(run, stage).missing for stage in pipeline.STAGES):
            command = [sys.executable, "-c", _DRIVER, str(run.path)]
            driver, before = subprocess.Popen(command, cwd=ROOT), self.kills_left  # noqa: S603
            while driver.poll() is None and self.kills_left > 0 and _at_work(run, driver):
                time.sleep(self._random.uniform(0, pause))
                self._kill(run, driver)
                found = _finished_files(run)
                self.lost += [path for path, old in finished.items() if found.get(path) != old]
                finished |= found
            if driver.wait() > 0 and self.kills_left == before:
                raise SystemExit(f"the driver of {run.path} failed, and nothing was killed")

    def _kill(self, run: Run, driver: subprocess.Popen[bytes]) -> None:
        """Kill the driver, one time in ten, or a worker that holds a unit, if there is one."""
        if self._random.random() < _DRIVERS:
            if driver.poll() is None:
                driver.kill()
                driver.wait()
                self.counts["drivers"] += 1
        elif workers := _workers(run, driver):
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(workers), signal.SIGKILL)
                self.counts["workers"] += 1


def _new_run(folder: Path, **changes: Any) -> Run:
    """Open a run in a folder of its own, where no other run's teachers can be reused."""
    return open_run.open_run(
        run_name="run", preset="digits_quick", runs_dir=folder, changes={**_SMALL, **changes}
    )


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


def _finished_files(run: Run) -> dict[str, str]:
    """Return the hash of every file of every finished unit, as its marker records it."""
    found: dict[str, str] = {}
    for unit in finished_units(run):
        found |= (run.units.marker(unit) or {}).get("files", {})
    return found


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option("--ipc", default=12, show_default=True, help="images per class, a unit each")
@click.option("--workers", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--address", help="a Ray cluster of this machine; none: one made for this")
def main(kills: int, ipc: int, workers: int, seed: int, address: str | None) -> None:
    """Kill workers and drivers at random; exits with 1 if a file is lost."""
    chaos = Chaos(kills, seed)
    cluster = nullcontext(address) if address else local_cluster(cpus=workers, gpus=0)
    with tempfile.TemporaryDirectory() as folder, cluster as found:
        chaos.disturb(Path(folder), ipc, ray_address=found, workers=workers)
    raise SystemExit(1 if chaos.lost else 0)


if __name__ == "__main__":
    main()
