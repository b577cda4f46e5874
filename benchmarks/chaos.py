"""Kill workers and drivers at random, and see what that costs: `python -m benchmarks.chaos`.

A run of the digits under Ray, from its teachers to its students, is killed again and again and
continued each time; whenever one is finished, a new one is begun. All of them must end with the
files that an undisturbed run in one process makes.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.common import ROOT
from benchmarks.contents import contents, finished_units
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
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
_PATIENCE = 300.0  # seconds for a driver to get a unit begun
_BETWEEN = 5.0  # the longest time between two kills, in mean times of a unit
_LOOK = 0.02  # seconds between two looks
_DRIVERS = 0.1  # share of the kills that hit a driver, whose workers must then all be started anew
_DRIVER = (
    "import sys; from pathlib import Path; from prism_nb import pipeline; "
    "from prism_nb.run import Run; run = Run.open(Path(sys.argv[1])); "
    "[pipeline.execute(run, stage) for stage in pipeline.STAGES]"
)


@dataclass
class Toll:
    """What the kills have cost.

    Attributes:
        workers: Workers killed.
        drivers: Drivers killed.
        runs: Runs that were finished, all with the right files.
        units: Units, and pieces of units, that these runs were made of.
        redone: How often one was begun once more.
        lost: Files that were finished once and later gone or changed, or that differ at the end, as
            records do, too.
    """

    workers: int = 0
    drivers: int = 0
    runs: int = 0
    units: int = 0
    redone: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """All kills."""
        return self.workers + self.drivers

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.workers} workers, {self.drivers} drivers) over {self.runs} "
            f"runs of {self.units} units: {self.redone} units redone, "
            f"{len(self.lost)} files lost"
        )


def chaos(
    folder: Path, address: str, *, kills: int, image_indices: int, workers: int, seed: int
) -> Toll:
    """Kill so often, and return what that has cost.

    Args:
        folder: Where the runs are made.
        address: The Ray cluster's.
        kills: How often, at least; the last run is finished undisturbed.
        image_indices: Images per class, each a unit of the synthesis.
        workers: Ray's workers.
        seed: Decides who is killed and when.
    """
    plain = _new_run(folder / "undisturbed", ipc=image_indices)
    for stage in pipeline.STAGES:
        pipeline.execute(plain, stage)
    wanted, toll, chance = contents(plain), Toll(), random.Random(seed)  # noqa: S311 (no secret)
    pause = statistics.mean(plain.units.record(unit)["seconds"] for unit in finished_units(plain))
    asked = {"backend": "ray", "ray_address": address, "workers": workers}
    while toll.kills < kills:
        run = _new_run(folder / str(toll.runs), ipc=image_indices, **asked)
        _disturb(run, toll, kills, chance, pause)
        found = contents(run)
        toll.lost += sorted(path for path in wanted | found if wanted.get(path) != found.get(path))
        toll.runs += 1
        _count(run, toll)
        print(toll, flush=True)
    return toll


def _new_run(folder: Path, **changes: Any) -> Run:
    """Open a run in a folder of its own, where it finds no other run's teachers."""
    return open_run_module.open_run(
        run_name="run", preset="digits_quick", runs_dir=folder, changes={**_SMALL, **changes}
    )


def _disturb(run: Run, toll: Toll, kills: int, chance: random.Random, pause: float) -> None:
    """Bring a run to its end, and kill meanwhile, until there were so many kills."""
    finished: dict[str, str] = {}
    while not _complete(run):
        command = [sys.executable, "-c", _DRIVER, str(run.path)]
        driver, before = subprocess.Popen(command, cwd=ROOT), toll.kills  # noqa: S603 (our own)
        while driver.poll() is None and toll.kills < kills:
            if not _wait_for_work(run, driver):
                break
            time.sleep(chance.uniform(0, _BETWEEN * pause))
            _kill(run, driver, toll, chance)
            found = _files(run)
            toll.lost += [path for path, old in finished.items() if found.get(path) != old]
            finished |= found
        if driver.wait() > 0 and toll.kills == before:
            raise SystemExit(f"the driver of {run.path} failed, and nothing was killed")


def _complete(run: Run) -> bool:
    return not any(pipeline.plan(run, stage).missing for stage in pipeline.STAGES)


def _wait_for_work(run: Run, driver: subprocess.Popen[bytes]) -> bool:
    """Wait until a worker is at a unit; return whether that came before the driver's end."""
    deadline = time.monotonic() + _PATIENCE
    while driver.poll() is None:
        if _workers(run, driver):
            return True
        if time.monotonic() > deadline:
            driver.kill()
            raise SystemExit(f"no unit of {run.path} was begun in {_PATIENCE:.0f} s")
        time.sleep(_LOOK)
    return False


def _kill(run: Run, driver: subprocess.Popen[bytes], toll: Toll, chance: random.Random) -> None:
    """Kill the driver, one time in ten, or a worker that is at a unit, if there is one."""
    there = _workers(run, driver)
    if chance.random() < _DRIVERS:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
            toll.drivers += 1
    elif there:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(there), signal.SIGKILL)
            toll.workers += 1


def _workers(run: Run, driver: subprocess.Popen[bytes]) -> list[int]:
    """Return the living processes of this machine that hold a unit, but for the driver."""
    owners = [Owner.read(path) for path in sorted(run.path.glob("locks/*/*.json"))]
    living = {owner.process for owner in owners if owner and _lives(owner.process)}
    return sorted(living - {driver.pid})


def _lives(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def _files(run: Run) -> dict[str, str]:
    """Return the hash of every file of every unit that is done, as the markers have it."""
    found: dict[str, str] = {}
    for unit in finished_units(run):
        found |= (run.units.marker(unit) or {}).get("files", {})
    return found


def _count(run: Run, toll: Toll) -> None:
    """Add a finished run's units to the toll, and those that were begun more than once."""
    for stage in pipeline.STAGES:
        begun = [event["unit"] for event in run.events.read(stage) if event["event"] == "begin"]
        toll.units += len(set(begun))
        toll.redone += len(begun) - len(set(begun))


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option(
    "--slots",
    default=12,
    show_default=True,
    help="images per class, one unit of the synthesis each",
)
@click.option("--workers", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--address", help="a Ray cluster of this machine; none: one made for this")
def main(kills: int, image_indices: int, workers: int, seed: int, address: str | None) -> None:
    """Kill workers and drivers at random; exits with 1 if a file is lost."""
    asked: dict[str, int] = {
        "kills": kills,
        "image_indices": image_indices,
        "workers": workers,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        if address is not None:
            toll = chaos(Path(folder), address, **asked)
        else:
            with local_cluster(cpus=workers, gpus=0) as own:
                toll = chaos(Path(folder), own, **asked)
    raise SystemExit(1 if toll.lost else 0)


if __name__ == "__main__":
    main()
