"""Ray: the same images from any number of workers, whoever dies on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.chaos import chaos
from prism_nb.core.errors import PrismError
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline, ray_backend, worker
from prism_nb.execution.backends import run_units
from prism_nb.execution.ray_backend import local_cluster, ray_session
from prism_nb.execution.worker import log_name, worker_versions

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["prism"],
    "ipc": 4,
    "batch_size": 10,
    "recipe": {"iterations": 60},
    "threads": 1,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster for all of these tests: to start one takes longer than any of them."""
    with local_cluster(cpus=4, gpus=0) as address:
        yield address


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("runs"), "undisturbed")
    pipeline.execute(run, "synthesis")
    return run


def new_run(folder: Path, name: str, **changes: Any) -> Run:
    run = open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes={**SMALL, **changes}
    )
    pipeline.execute(run, "squeeze")
    return run


def on_cluster(beside: Run, name: str, address: str, **changes: Any) -> Run:
    """A new run like another one, with teachers that are there, whose units Ray is to do."""
    run = new_run(beside.path.parent, name)
    asked = {"backend": "ray", "ray_address": address, **changes}
    return run.with_settings(run.settings.model_copy(update=asked))


def hashes(run: Run) -> dict[str, str]:
    """What every unit of the synthesis has made, by file."""
    found: dict[str, str] = {}
    for unit in pipeline.stage_units(run, "synthesis"):
        assert run.inspect(unit).state == "done"
        found |= (run.marker(unit) or {})["files"]
    return found


def events(run: Run, kind: str) -> list[str]:
    return [event["unit"] for event in run.events("synthesis") if event["event"] == kind]


def is_under_way(run: Run, *, most: float = 1) -> bool:
    """Whether a unit is done and another has made some steps, but less than a share of them."""
    steps = [event for event in run.events("synthesis") if event["event"] == "step"]
    return (
        bool(events(run, "end")) and bool(steps) and steps[-1]["step"] < most * steps[-1]["steps"]
    )


def workers_of(run: Run) -> list[int]:
    owners = [Owner.read(path) for path in run.path.glob("locks/synthesis/*.json")]
    return [owner.process for owner in owners if owner]


def kill_one_worker(run: Run) -> None:
    deadline, found = time.monotonic() + 240, list[int]()
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)
        # Half-way, so that the kill still finds the worker at that unit.
        found = workers_of(run) if is_under_way(run, most=0.5) else []
    os.kill(found[0], signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_images_come_from_any_number_of_workers(
    undisturbed: Run, cluster: str, workers: int
) -> None:
    run = on_cluster(undisturbed, f"with{workers}", cluster, workers=workers)
    told: list[dict[str, Any]] = []
    outcome = pipeline.execute(run, "synthesis", told.append)
    assert hashes(run) == hashes(undisturbed)
    assert (outcome.made, outcome.kept) == (4, 0)
    ends = [event["unit"] for event in told if event["event"] == "end"]
    assert sorted(ends) == sorted(unit.name for unit in pipeline.stage_units(run, "synthesis"))
    assert any(event["event"] == "step" for event in told)
    assert len(list(run.path.glob("logs/synthesis/*.log"))) == 4
    again = pipeline.execute(run, "synthesis", told.append)
    assert (again.made, again.kept) == (0, 4)


def test_a_workers_death_is_survived_in_the_same_call(undisturbed: Run, cluster: str) -> None:
    run = on_cluster(undisturbed, "death", cluster, workers=1)
    killer = threading.Thread(target=kill_one_worker, args=[run])
    killer.start()
    outcome = pipeline.execute(run, "synthesis")
    killer.join()
    assert hashes(run) == hashes(undisturbed)
    assert outcome.made == 4
    lost = events(run, "lost")
    assert len(lost) == 1
    assert events(run, "begin").count(lost[0]) == 2
    assert len(events(run, "begin")) == 5


def test_a_drivers_death_is_survived_by_the_next_call(undisturbed: Run, cluster: str) -> None:
    run = on_cluster(undisturbed, "driver", cluster, workers=2)
    Run.create(run.path, run.settings)
    program = (
        "from pathlib import Path; from prism_nb import pipeline; from prism_nb.run import Run; "
        f"pipeline.execute(Run.open(Path({str(run.path)!r})), 'synthesis')"
    )
    driver = subprocess.Popen([sys.executable, "-c", program])
    while not is_under_way(run):
        assert driver.poll() is None, "the driver ended before it could be killed"
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    outcome = pipeline.execute(run, "synthesis")
    assert outcome.kept >= 1
    assert hashes(run) == hashes(undisturbed)
    assert len(events(run, "begin")) <= 4 + 2


def test_a_unit_that_costs_too_many_workers_is_named_with_its_log(
    undisturbed: Run, cluster: str
) -> None:
    run = on_cluster(undisturbed, "deadly", cluster, workers=1)
    unit, stop = pipeline.stage_units(run, "synthesis")[0], threading.Event()
    killer = threading.Thread(target=kill_every_worker, args=[run, stop])
    killer.start()
    words = f"unit {unit.name} has cost 3 workers their lives; .*{log_name(unit)}"
    try:
        with pytest.raises(PrismError, match=words):
            run_units(run, [unit], pipeline.STAGES["synthesis"].work, lambda _: None)
    finally:
        stop.set()
        killer.join()
    assert events(run, "lost") == [unit.name] * 3


def kill_every_worker(run: Run, stop: threading.Event) -> None:
    while not stop.wait(0.01):
        for process in workers_of(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def test_a_units_failure_ends_the_stage_in_its_own_words(undisturbed: Run, cluster: str) -> None:
    run = on_cluster(undisturbed, "failing", cluster, workers=1)
    units = pipeline.stage_units(run, "synthesis")
    with pytest.raises(PrismError, match="TypeError: .*getpid"):  # which takes no such arguments
        run_units(run, units, "os:getpid", lambda _: None)
    assert events(run, "failed") == [units[0].name] == events(run, "begin")


def test_workers_of_another_version_do_nothing(
    undisturbed: Run, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on_cluster(undisturbed, "versions", cluster)
    monkeypatch.setattr(worker, "worker_versions", lambda: {**worker_versions(), "torch": "1.0"})
    words = "has other versions than the run's driver: torch .* 1.0 with the driver"
    with pytest.raises(PrismError, match=words):
        pipeline.execute(run, "synthesis")
    assert not events(run, "begin")


def test_room_that_is_not_there_is_waited_for_in_words(
    undisturbed: Run, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on_cluster(undisturbed, "busy", cluster, workers=1)
    monkeypatch.setattr(ray_backend, "_PATIENCE", 0.5)
    with ray_session(run.settings, 1):
        import ray

        others = ray.remote(ray_backend._Worker).options(num_cpus=4).remote()
        ray.get(others.greet.remote())
        told: list[dict[str, Any]] = []

        def listen(event: dict[str, Any]) -> None:
            told.append(event)
            if event["event"] == "waiting":
                ray.kill(others)

        unit, work = pipeline.stage_units(run, "synthesis")[0], pipeline.STAGES["synthesis"].work
        assert run_units(run, [unit], work, listen).made == 1
    words = [event["why"] for event in told if event["event"] == "waiting"]
    assert words[0] == "waiting for room on the Ray cluster: 1 CPUs asked, 0 of 4 free"


def test_a_cluster_of_this_machine_listens_to_this_machine_alone(
    undisturbed: Run, cluster: str
) -> None:
    with ray_session(on_cluster(undisturbed, "listening", cluster).settings, 1):
        import ray

        worker = ray.remote(ray_backend._Worker).remote()
        ray.get(worker.greet.remote())
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        ports = [port for each in family for port in each.net_connections("inet")]
        heard = {port.laddr.ip for port in ports if port.status == psutil.CONN_LISTEN}
        ray.kill(worker)
    assert {address.removeprefix("::ffff:") for address in heard} == {"127.0.0.1"}
    record = ray_backend._ray_folder() / "ray_current_cluster"
    assert not record.exists() or cluster not in record.read_text()


def test_nothing_is_lost_by_kills_at_random(cluster: str, tmp_path: Path) -> None:
    toll = chaos(tmp_path, cluster, kills=5, image_indices=4, workers=4, seed=1)
    assert toll.kills >= 5
    assert not toll.lost
    assert toll.redone <= toll.workers + 4 * toll.drivers
