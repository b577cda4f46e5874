"""Ray: the same images from any number of workers, deaths survived, wrong settings refused."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import psutil
import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.execution import pipeline, ray_backend
from prism_nb.execution.backends import run_units
from prism_nb.execution.preflight import preflight
from prism_nb.execution.ray_backend import local_cluster, require_ray, worker_resources
from tests.helpers.small_run import squeezed_run

# Ray itself is imported by the kit, which sets its variables before.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
SMALL: dict[str, Any] = {
    "methods": ["prism"],
    "ipc": 4,
    "recipe": {"iterations": 60},
    "threads": 1,
}
RUN_UNIT = pipeline.STAGES["synthesis"].run_unit


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Ray on this machine, to which this process is connected, for all tests of the module."""
    with local_cluster(cpus=4, gpus=0) as address:
        yield address


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = squeezed_run(tmp_path_factory.mktemp("runs"), "undisturbed", **SMALL)
    pipeline.execute(run, "synthesis")
    return run


def on_ray(undisturbed: Run, name: str, **changes: Any) -> Run:
    """A run of equal settings and teachers, whose units are done by Ray."""
    run = squeezed_run(undisturbed.path.parent, name, **SMALL)
    return run.with_settings(run.settings.model_copy(update={"backend": "ray", **changes}))


def hashes(run: Run) -> dict[str, str]:
    """The files of every unit of the synthesis with their hashes."""
    found: dict[str, str] = {}
    for unit in pipeline.stage_units(run, "synthesis"):
        assert run.units.is_done(unit)
        found |= (run.units.marker(unit) or {})["files"]
    return found


def events(run: Run, kind: str) -> list[str]:
    return [event["unit"] for event in run.events.read("synthesis") if event["event"] == kind]


def is_under_way(run: Run, *, most: float = 1) -> bool:
    """Whether a unit is done and another has made some steps, but less than a share of them."""
    steps = [event for event in run.events.read("synthesis") if event["event"] == "step"]
    return bool(events(run, "unit_end") and steps and steps[-1]["step"] < most * steps[-1]["steps"])


def workers_of(run: Run) -> list[int]:
    owners = [Owner.read(path) for path in run.path.glob("locks/synthesis/*.json")]
    return [owner.process for owner in owners if owner]


def test_a_dead_workers_unit_goes_to_another(undisturbed: Run, cluster: str) -> None:
    run = on_ray(undisturbed, "death", workers=1)
    killer = threading.Thread(target=kill_one_worker, args=[run])
    killer.start()
    heard: list[dict[str, Any]] = []
    outcome = pipeline.execute(run, "synthesis", heard.append)
    killer.join()
    assert {event["event"] for event in heard} >= {"unit_start", "step", "unit_end"}
    assert hashes(run) == hashes(undisturbed)
    assert outcome.made == 4
    starts = events(run, "unit_start")
    assert (len(starts), len(set(starts))) == (5, 4)


def kill_one_worker(run: Run) -> None:
    deadline, found = time.monotonic() + 240, list[int]()
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)
        # Half-way, so that the kill still finds the worker at that unit.
        found = workers_of(run) if is_under_way(run, most=0.5) else []
    os.kill(found[0], signal.SIGKILL)


def test_three_deaths_at_a_unit_end_the_stage(undisturbed: Run, cluster: str) -> None:
    run = on_ray(undisturbed, "deadly", workers=1)
    unit, stop, killed = pipeline.stage_units(run, "synthesis")[0], threading.Event(), set[int]()
    killer = threading.Thread(target=kill_every_worker, args=[run, stop, killed])
    killer.start()
    try:
        message = f"Ray gave up unit {unit.name}: "
        with pytest.raises(PrismError, match=message):
            run_units(run, [unit], RUN_UNIT, lambda _: None)
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 3


def kill_every_worker(run: Run, stop: threading.Event, killed: set[int]) -> None:
    while not stop.wait(0.01):
        for process in workers_of(run):
            killed.add(process)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def test_a_drivers_death_is_survived_by_the_next_call(undisturbed: Run, cluster: str) -> None:
    run = on_ray(undisturbed, "driver", workers=2, ray_address=cluster)
    Run.create(run.path, run.settings)
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, "synthesis"]
    driver = subprocess.Popen([*command, "--runs-dir", str(run.path.parent)])
    while not is_under_way(run):
        assert driver.poll() is None, "the driver ended before it could be killed"
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    outcome = pipeline.execute(run, "synthesis")
    assert outcome.skipped >= 1
    assert hashes(run) == hashes(undisturbed)
    assert len(events(run, "unit_start")) <= 4 + 2


def test_a_failed_unit_ends_the_stage(undisturbed: Run, cluster: str) -> None:
    run = on_ray(undisturbed, "failing", workers=1)
    units = pipeline.stage_units(run, "synthesis")
    with pytest.raises(PrismError, match="TypeError: .*getpid"):  # which takes no arguments
        run_units(run, units, os.getpid, lambda _: None)
    assert events(run, "unit_start") == [units[0].name]


def test_missing_room_is_reported_and_waited_for(
    undisturbed: Run, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    run = on_ray(undisturbed, "busy", workers=1)
    monkeypatch.setattr(ray_backend, "_STALL_SECONDS", 0.5)
    others = ray.remote(num_cpus=4)(lambda: time.sleep(300)).remote()
    while ray.available_resources().get("CPU", 0) > 0:
        time.sleep(0.1)
    heard: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        heard.append(event)
        if event["event"] == "waiting":
            ray.cancel(others, force=True)

    unit = pipeline.stage_units(run, "synthesis")[0]
    assert run_units(run, [unit], RUN_UNIT, listen) == 1
    (why,) = [event["why"] for event in heard if event["event"] == "waiting"]
    assert why == "waiting for room on the Ray cluster: a worker needs 1 CPUs, 0 of 4 are free"


def test_a_cluster_of_this_machine_listens_on_loopback_alone(cluster: str) -> None:
    import ray

    ray.get(ray.remote(lambda: os.getpid()).remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [port for each in family for port in each.net_connections("inet")]
    heard = {port.laddr.ip for port in ports if port.status == psutil.CONN_LISTEN}
    assert {address.removeprefix("::ffff:") for address in heard} == {"127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


# -- what is refused before anything is started -----------------------------------------------


def asked(**changes: object) -> Settings:
    return load_settings("digits_quick", {"backend": "ray", **changes})


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_backend.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'ray>=2\.52'"):
        preflight(asked())


def test_ray_imported_too_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    with pytest.raises(PrismError, match="imported too early .*; restart this process"):
        local_cluster(cpus=1, gpus=0).__enter__()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda:3"}, "device 'cuda:3' does not go with backend ray"),
        ({"ray_address": "somewhere"}, "ray_address 'somewhere': .* use HOST:PORT"),
        ({"ray_address": "head:"}, "ray_address 'head:': .* use HOST:PORT"),
        ({"ray_address": "127.0.0.1:99999"}, "no Ray cluster answers at .* use HOST:PORT"),
        ({"ray_address": "127.0.0.1:9"}, "no Ray cluster answers at .*refused"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_ray(asked(**changes))


@pytest.mark.parametrize(
    ("changes", "cluster_has", "expected"),
    [
        ({}, {"CPU": 8.0}, (1, 0, 8)),
        ({"threads": 3}, {"CPU": 8.0}, (3, 0, 2)),
        ({}, {"CPU": 8.0, "GPU": 4.0}, (0, 1.0, 4)),
        ({"gpus_per_worker": 0.1}, {"CPU": 8.0, "GPU": 1.0}, (0, 0.1, 10)),
        ({"gpus_per_worker": 0.0}, {"CPU": 2.0, "GPU": 4.0}, (1, 0, 2)),
        ({"device": "cpu"}, {"CPU": 2.0, "GPU": 4.0}, (1, 0, 2)),
    ],
)
def test_a_worker_has_a_gpu_or_its_threads(
    changes: dict[str, object],
    cluster_has: dict[str, float],
    expected: tuple[int, float, int],
) -> None:
    assert worker_resources(asked(**changes), cluster_has) == expected


def test_a_worker_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(UsageError, match="2 GPUs, but the Ray cluster has 1; lower gpus_per"):
        worker_resources(asked(gpus_per_worker=2.0), {"GPU": 1.0})
    with pytest.raises(UsageError, match="9 CPUs, but the Ray cluster has 4; lower threads"):
        worker_resources(asked(threads=9), {"CPU": 4.0})
