"""Units in jobs: submitit's local executor, and a toy SLURM for its arrays, scripts and queue."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import slurm_backend, worker
from prism_nb.execution.backends import run_units
from prism_nb.execution.slurm_backend import JobStore, SlurmJob
from prism_nb.execution.worker import worker_versions
from tests.helpers import toy_slurm
from tests.helpers.slurm_work import units_of

ROOT = Path(__file__).parents[2]
LOCAL = {"cluster": "local", "timeout_min": 30}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask often; let jobs import the tests' own work."""
    monkeypatch.setattr(slurm_backend, "_ASK", 0.2)
    monkeypatch.setattr(slurm_backend, "_GRACE", 0.5)
    monkeypatch.setattr(slurm_backend, "_LOOK", 0.05)
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a toy SLURM on the PATH; return its folder, and leave no job behind."""
    folder = tmp_path / "toy"
    commands = toy_slurm.install(folder)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    yield folder
    for path in folder.glob("queue/*.job"):
        stop(int(path.read_text()))


def stop(process: int) -> None:
    """End a process and those that it has begun."""
    try:
        top = psutil.Process(process)
        for each in [*top.children(recursive=True), top]:
            each.kill()
    except psutil.NoSuchProcess:
        return


def run_with(tmp_path: Path, workers: int = 2, **slurm: Any) -> Run:
    changes = {"backend": "slurm", "slurm": slurm or LOCAL, "device": "cpu", "workers": workers}
    return Run.create(tmp_path / "r", load_settings("digits_quick", changes))


def carry_out(run: Run, units: list[Any], work: str = "write") -> tuple[Any, list[Any]]:
    events: list[dict[str, Any]] = []
    outcome = run_units(run, units, f"tests.helpers.slurm_work:{work}", events.append)
    return outcome, [(event["event"], event.get("unit")) for event in events]


def begun(run: Run) -> Counter[str]:
    path = run.path / "begun.txt"
    return Counter(path.read_text().split() if path.exists() else [])


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def leave(run: Run, units: list[Any], monkeypatch: pytest.MonkeyPatch, when: Any) -> str:
    """Drive a stage until something is the case, then press Ctrl-C; return what is said."""

    def look(_: float) -> None:
        if when():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slurm_backend.time, "sleep", look)
        with pytest.raises(KeyboardInterrupt) as caught:
            carry_out(run, units)
    return str(caught.value)


def preempt(run: Run, unit: str) -> None:
    """Tell the job that works on a unit to make room, as a cluster does."""
    owner = wait_for(lambda: Owner.read(run.file(f"locks/labels/{unit}.json")))
    os.kill(owner.process, signal.SIGUSR2)


def test_local_jobs_do_the_units_and_one_that_is_preempted_goes_on(tmp_path: Path) -> None:
    run, gate = run_with(tmp_path), tmp_path / "gate"
    units = [*units_of(2), *units_of(3, {"gate": str(gate)})[2:]]
    run.finish(units[0], paths=[], record={})
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "step" and event["unit"] == "u2":
            if begun(run)["u2"] == 1:
                preempt(run, "u2")
            else:
                gate.touch()

    outcome = run_units(run, units, "tests.helpers.slurm_work:write", listen)
    assert (outcome.kept, outcome.made) == (1, 2)
    assert {run.inspect(unit).state for unit in units} == {"done"}
    assert begun(run) == {"u1": 1, "u2": 2}
    told = Counter((event["event"], event.get("unit")) for event in events)
    assert told["kept", "u0"] == told["submitted", None] == 1
    assert [told[kind, "u1"] for kind in ("begin", "step", "end")] == [1, 1, 1]
    assert [told[kind, "u2"] for kind in ("begin", "step", "end")] == [2, 2, 1]
    assert list(run.events("relabel")) == events
    again, _ = carry_out(run, units)
    assert (again.kept, again.made) == (3, 0)
    assert begun(run) == {"u1": 1, "u2": 2}


def test_driver_of_an_array_may_leave_and_the_next_follows_it_through_a_preemption(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gate = run_with(tmp_path, slurm_partition="cpu"), tmp_path / "gate"
    units = units_of(3, {"gate": str(gate)})
    first = [units[0], units[1]]
    said = leave(run, first, monkeypatch, lambda: len(begun(run)) == 2)
    assert said == "2 jobs go on; the same command follows them; `scancel 1000` ends them"
    assert slurm_backend.running_jobs_message(run) == said
    script = (run.path / "jobs/labels/1000_submission.sh").read_text()
    assert "#SBATCH --array=0-1%2\n" in script
    assert "#SBATCH --partition=cpu\n" in script
    preempt(run, "u1")
    wait_for(lambda: begun(run)["u1"] == 2)
    jobs: dict[str, list[str]] = {}

    def listen(event: dict[str, Any]) -> None:
        jobs.update({event["event"]: event["jobs"]} if "jobs" in event else {})
        if event["event"] == "submitted":
            gate.touch()

    outcome = run_units(run, units, "tests.helpers.slurm_work:write", listen)
    assert outcome.made == 3
    assert begun(run) == {"u0": 1, "u1": 2, "u2": 1}
    assert jobs == {"followed": ["1000_0", "1000_1"], "submitted": ["1001"]}
    assert slurm_backend.running_jobs_message(run) == ""


def test_jobs_of_a_driver_that_died_while_it_submitted_are_found_by_their_name(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gate = run_with(tmp_path, slurm_partition="cpu", name="mine"), tmp_path / "gate"
    units, submit = units_of(2, {"gate": str(gate)}), slurm_backend.submit_array

    def die_afterwards(*arguments: Any) -> None:
        submit(*arguments)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(slurm_backend, "submit_array", die_afterwards)
        with pytest.raises(SystemExit):
            carry_out(run, units)
    script = (toy / "queue/1000.script").read_text()
    assert re.search(r"--job-name=mine-[0-9a-f]{8}\n", script)
    assert slurm_backend.running_jobs_message(run).startswith("2 jobs go on")
    jobs: dict[str, list[str]] = {}

    def listen(event: dict[str, Any]) -> None:
        jobs.update({event["event"]: sorted(event["jobs"])} if "jobs" in event else {})
        if event["event"] == "followed":
            gate.touch()

    assert run_units(run, units, "tests.helpers.slurm_work:write", listen).made == 2
    assert jobs == {"followed": ["1000_0", "1000_1"]}
    assert begun(run) == {"u0": 1, "u1": 1}


def test_jobs_that_were_never_submitted_are_not_waited_for(tmp_path: Path, toy: Path) -> None:
    jobs = JobStore(tmp_path, "slurm")
    jobs.write([SlurmJob("", slurm_backend.result_name("ab", 0), {"u0": "b"})])
    assert jobs.in_queue(jobs.recorded()) == []


def test_jobs_of_other_versions_than_the_drivers_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, units = run_with(tmp_path, workers=1), units_of(1)
    monkeypatch.setattr(worker, "worker_versions", lambda: {**worker_versions(), "timm": "0.1"})
    with pytest.raises(PrismError) as caught:
        carry_out(run, units)
    said = str(caught.value)
    assert re.search(
        r"worker on \S+ has other versions than the run's driver: timm \S+ there", said
    )
    assert "0.1 with the driver" in said
    assert "install the same ones on every machine" in said
    assert not begun(run)


def test_jobs_of_other_settings_are_not_taken_for_ones_own() -> None:
    job = SlurmJob("7", "x.json", {"u0": "b"})
    other = SlurmJob("8", "y.json", {"u0": "other"})
    assert job.does(units_of(1)[0])
    assert not other.does(units_of(1)[0])


def test_failed_unit_is_named_with_its_reason_and_log_and_others_stay(tmp_path: Path) -> None:
    run, units = run_with(tmp_path, workers=1), units_of(3)
    with pytest.raises(PrismError) as caught:
        carry_out(run, units, "refuse_one")
    said = str(caught.value)
    assert "2 of 3 units of stage relabel were not done: u1 (and 1 after it) in job" in said
    assert "u1 diverged" in said
    log = re.search(r"\((/\S+_log\.err)\)", said)
    assert log is not None
    assert Path(log[1]).is_file()
    assert [run.inspect(unit).state for unit in units] == ["done", "missing", "missing"]


def test_job_that_is_killed_is_missed_and_its_unit_done_by_the_next_call(
    tmp_path: Path, toy: Path
) -> None:
    run = run_with(tmp_path, slurm_partition="cpu")
    units = units_of(1, {"gate": str(tmp_path / "gate")})

    class Killing:
        def __call__(self, event: dict[str, Any]) -> None:
            if event["event"] == "step":
                stop(int((toy / "queue/1000.job").read_text()))

    with pytest.raises(PrismError, match="u0 in job 1000: it ended without a word"):
        run_units(run, units, "tests.helpers.slurm_work:write", Killing())
    (tmp_path / "gate").touch()
    assert carry_out(run, units)[0].made == 1


def test_queue_that_does_not_answer_says_nothing_of_the_jobs(tmp_path: Path, toy: Path) -> None:
    (toy / "commands/squeue").write_text("#!/bin/sh\nexit 1\n")
    jobs = JobStore(tmp_path, "slurm")
    job = SlurmJob("7", "x.json", {})
    assert jobs.in_queue([job]) == [job]
    assert jobs.under_way([job]) == [job]


def test_queue_that_falls_silent_is_told_of_in_its_own_words_until_it_answers(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gate = run_with(tmp_path, slurm_partition="cpu"), tmp_path / "gate"
    squeue, events = toy / "commands/squeue", list[dict[str, Any]]()
    answering = squeue.read_bytes()
    monkeypatch.setattr(slurm_backend, "_SILENCE", 0.0)

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "submitted":
            away = f"#!{sys.executable}\nimport sys; sys.exit('slurmctld is away')\n"
            put_in_place(squeue, away.encode())
        if event["event"] == "waiting":
            put_in_place(squeue, answering)
        if event["event"] == "answered":
            gate.touch()

    run_units(run, units_of(1, {"gate": str(gate)}), "tests.helpers.slurm_work:write", listen)
    told = [event["event"] for event in events if event["event"] in {"waiting", "answered"}]
    assert told == ["waiting", "answered"]
    words = [event["why"] for event in events if event["event"] == "waiting"]
    assert re.search(r"squeue has not answered since \S+ \S+ \(slurmctld is away\)", words[0])


def put_in_place(command: Path, content: bytes) -> None:
    """Replace a command all at once, since it may be asked at any time."""
    other = command.with_name("other")
    other.write_bytes(content)
    other.chmod(0o755)
    other.replace(command)


def test_queue_is_asked_by_number_where_the_user_has_no_name(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy / "commands/squeue").write_text('#!/bin/sh\necho "7 $*"\n')
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.setattr(slurm_backend.os, "getuid", lambda: 4242)  # whom no list knows
    asked = slurm_backend.Queue().jobs()
    assert asked is not None
    assert asked["7"].endswith("--user 4242")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"jobs": 3, "cluster": "slurm"}', b'{"jobs": [{"id": 1}]}']
)
def test_torn_record_is_no_record(tmp_path: Path, content: bytes) -> None:
    fileio.write_bytes(tmp_path / "jobs.json", content)
    assert JobStore(tmp_path, "slurm").recorded() == []


@given(st.integers(1, 200), st.integers(1, 90))
@hypothesis_settings(deadline=None)
def test_units_are_dealt_evenly_each_once(count: int, workers: int) -> None:
    units = units_of(count)
    hands = slurm_backend.split_round_robin(units, workers)
    assert sorted(unit.name for hand in hands for unit in hand) == sorted(u.name for u in units)
    sizes = {len(hand) for hand in hands}
    assert max(sizes) - min(sizes) <= 1
    assert len(hands) == min(count, workers)


def test_unknown_partition_is_refused_in_sbatchs_own_words(tmp_path: Path, toy: Path) -> None:
    run = run_with(tmp_path, slurm_partition="gpux")
    with pytest.raises(PrismError) as caught:
        carry_out(run, units_of(2))
    said = str(caught.value)
    assert "sbatch refused the jobs: sbatch: error: invalid partition specified: gpux" in said
    assert "slurm_partition" in said
    assert "\n" not in said


def test_missing_commands_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="command sbatch, which is not on the PATH"):
        carry_out(run_with(tmp_path, slurm_partition="cpu"), units_of(1))


def test_missing_submitit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"pip install submitit"):
        carry_out(run_with(tmp_path), units_of(1))


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ({"slurm_partion": "gpu"}, "'slurm_partion' is no parameter.*mean 'slurm_partition'"),
        ({"partition": "gpu"}, "'partition' is no parameter.*'slurm_partition'"),
        ({"timeout_mins": 3}, "'timeout_mins' is no parameter.*'timeout_min'"),
        ({"timeout_min": "3h", "cluster": "local"}, "submitit does not take.*timeout_min"),
        ({"cluster": "lokal"}, "slurm.cluster: 'lokal' is none; did you mean 'local'"),
    ],
)
def test_parameters_that_submitit_does_not_take_are_refused(
    tmp_path: Path, toy: Path, slurm: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        slurm_backend.make_executor(run_with(tmp_path, **slurm).settings, tmp_path / "j", "n", "t")


def test_what_jobs_ask_for_by_default_gives_way_to_what_is_set(tmp_path: Path, toy: Path) -> None:
    settings = run_with(tmp_path, timeout_min=7, slurm_cpus_per_task=5).settings
    executor = slurm_backend.make_executor(settings, tmp_path / "j", "n", "1f")
    assert executor._executor.parameters == {"time": 7, "cpus_per_task": 5, "job_name": "n-1f"}
    assert executor._executor.max_num_timeout == 50


def test_script_in_the_docs_is_the_one_that_is_submitted(tmp_path: Path, toy: Path) -> None:
    text = (ROOT / "docs/slurm.md").read_text(encoding="utf-8")
    said = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    shown = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert said is not None
    assert shown is not None
    (toy / "commands/sbatch").write_text("#!/bin/sh\necho Submitted batch job 1\n")
    settings = load_settings("digits_quick", {**yaml.safe_load(said[1]), "device": "cpu"})
    folder = tmp_path / "jobs/synthesis"
    executor = slurm_backend.make_executor(settings, folder, "imagenet-synthesis", "4f1d09c2")
    slurm_backend.submit_array(executor, [print] * int(settings.workers))
    script = (folder / "1_submission.sh").read_text()
    script = script.replace(str(tmp_path), "/shared/runs/imagenet").replace(
        sys.executable, "python"
    )
    assert script.strip() == shown[1].strip()
