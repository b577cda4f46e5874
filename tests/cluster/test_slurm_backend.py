"""Units in jobs: submitit's local and debug executors, and fakes of SLURM's commands."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.lock import Owner
from prism_nb.core.run import Run
from prism_nb.execution import slurm_backend
from prism_nb.execution.backends import run_units
from tests.helpers.slurm_work import refuse_one, units_of, write

pytest.importorskip("submitit")
LOCAL = {"cluster": "local", "timeout_min": 30}
DEBUG = {"cluster": "debug"}
ON_SLURM = {"slurm_partition": "cpu"}


def run_with(tmp_path: Path, slurm: dict[str, Any], workers: int = 2) -> Run:
    changes = {"backend": "slurm", "slurm": slurm, "device": "cpu", "workers": workers}
    return Run.create(tmp_path / "r", load_settings("digits_quick", changes))


def carry_out(run: Run, units: list[Any], work: Any = write, listen: Any = None) -> int:
    return run_units(run, units, work, listen or (lambda _: None))


def started(run: Run) -> Counter[str]:
    path = run.path / "begun.txt"
    return Counter(path.read_text().split() if path.exists() else [])


def test_a_preempted_job_goes_on_and_finished_units_stay(tmp_path: Path) -> None:
    run, gate = run_with(tmp_path, LOCAL), tmp_path / "gate"
    units = [*units_of(2), *units_of(3, {"gate": str(gate)})[2:]]
    run.units.finish(units[0], paths=[], record={})
    heard: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        heard.append(event)
        if event["event"] == "step" and event["unit"] == "u2":
            if started(run)["u2"] == 1:
                owner = Owner.read(run.file("locks/relabel/u2.json"))
                assert owner is not None
                os.kill(owner.process, signal.SIGUSR2)  # as SLURM announces a preemption
            else:
                gate.touch()

    assert carry_out(run, units, listen=listen) == 2
    assert {run.units.state(unit).state for unit in units} == {"done"}
    assert started(run) == {"u1": 1, "u2": 2}
    counts = Counter((event["event"], event.get("unit")) for event in heard)
    assert counts["unit_skipped", "u0"] == counts["submitted", None] == 1
    assert [counts[kind, "u1"] for kind in ("unit_start", "step", "unit_end")] == [1, 1, 1]
    assert [counts[kind, "u2"] for kind in ("unit_start", "step", "unit_end")] == [2, 2, 1]
    assert list(run.events.read("relabel")) == heard


def test_a_killed_job_is_named_and_its_unit_done_by_the_next_call(tmp_path: Path) -> None:
    run, gate = run_with(tmp_path, LOCAL, workers=1), tmp_path / "gate"
    units = units_of(1, {"gate": str(gate)})

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            owner = Owner.read(run.file("locks/relabel/u0.json"))
            assert owner is not None
            os.kill(owner.process, signal.SIGKILL)

    with pytest.raises(PrismError, match=r"u0 in job \d+: it ended without a result"):
        carry_out(run, units, listen=kill)
    gate.touch()
    again = run.with_settings(run.settings.model_copy(update={"slurm": DEBUG}))
    assert carry_out(again, units) == 1
    assert started(run) == {"u0": 2}


def test_a_failed_unit_is_named_with_its_reason_and_log(tmp_path: Path) -> None:
    run, units = run_with(tmp_path, DEBUG, workers=1), units_of(3)
    with pytest.raises(PrismError) as caught:
        carry_out(run, units, refuse_one)
    message = str(caught.value)
    assert "2 of 3 units of stage relabel were not done, first u1 in job" in message
    assert "u1 diverged" in message
    log = re.search(r"logs: (/\S+_log\.err)\.", message)
    assert log is not None
    assert Path(log[1]).is_file()
    assert [run.units.state(unit).state for unit in units] == ["done", "missing", "missing"]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with fakes of sbatch, srun and sacct; `state` in it is every job's state."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    commands = {
        "sbatch": """
            script = open(sys.argv[1]).read()
            if "--partition=cpu" not in script:
                sys.exit("sbatch: error: invalid partition specified")
            number = 1 + len([name for name in os.listdir(here) if name.endswith(".script")])
            open(f"{here}/{number}.script", "w").write(script)
            open(f"{here}/{number}.environment", "w").write("\\n".join(os.environ))
            print("Submitted batch job", number)
        """,
        "srun": "",
        "sacct": """
            print("JobID|State|NodeList")
            state = open(here + "/state").read()
            for job in [sys.argv[at + 1] for at, name in enumerate(sys.argv) if name == "-j"]:
                for place in ("", "_0", "_1"):
                    print(f"{job}{place}|{state}|node")
        """,
    }
    head = f"#!{sys.executable}\nimport os, sys\nhere = {str(folder)!r}\n"
    for name, body in commands.items():
        text = "\n".join(line[12:] for line in body.splitlines())
        (folder / name).write_text(head + text + "\n")
        (folder / name).chmod(0o755)
    (folder / "state").write_text("RUNNING")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def finish(run: Run, units: list[Any], slurm: Path) -> None:
    """Do what the jobs of units would do."""
    for unit in units:
        if run.units.marker(unit) is None:
            run.units.finish(unit, paths=[], record={})
    (slurm / "state").write_text("COMPLETED")


def test_the_driver_may_leave_and_the_next_call_resumes_its_jobs(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, units = run_with(tmp_path, ON_SLURM), units_of(3)

    def press_ctrl_c(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slurm_backend.time, "sleep", press_ctrl_c)
        with pytest.raises(KeyboardInterrupt, match="2 jobs.*continue.*`scancel 1` ends them"):
            carry_out(run, units[:2])
    assert slurm_backend.running_jobs_message(run).startswith("2 jobs")
    script = (slurm / "1.script").read_text()
    assert "#SBATCH --array=0-1%2\n" in script
    assert "#SBATCH --job-name=r-relabel\n" in script
    jobs: dict[str, list[str]] = {}

    def listen(event: dict[str, Any]) -> None:
        jobs.update({event["event"]: event["jobs"]} if "jobs" in event else {})
        if event["event"] == "submitted":
            finish(run, units, slurm)

    assert carry_out(run, units, listen=listen) == 3
    assert jobs == {"jobs_resumed": ["1_0", "1_1"], "submitted": ["2"]}
    assert slurm_backend.running_jobs_message(run) == ""


@pytest.mark.parametrize("state", ["CANCELLED", ""], ids=["ended", "unknown"])
def test_jobs_that_do_not_run_are_submitted_again(tmp_path: Path, slurm: Path, state: str) -> None:
    run, units = run_with(tmp_path, ON_SLURM), units_of(2)
    fileio.write_json(run.file("jobs/relabel/jobs.json"), {"77": {"u0": "b", "u1": "b"}})
    (slurm / "state").write_text(state)
    assert slurm_backend.running_jobs_message(run) == ""
    heard: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        heard.append(event["event"])
        if event["event"] == "submitted":
            finish(run, units, slurm)

    carry_out(run, units, listen=listen)
    assert heard == ["submitted"]


@pytest.mark.parametrize("within_job", [True, False])
def test_jobs_inherit_no_variables_of_the_drivers_own_job(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch, within_job: bool
) -> None:
    choices = {"SLURM_CONF", "SBATCH_ACCOUNT"}
    others = {"SBATCH_MEM_BIND", "SLURM_CPU_BIND", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_ID"}
    names = {*choices, *others, *({"SLURM_JOB_ID"} if within_job else ())}
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name in names:
        monkeypatch.setenv(name, "1")
    run, units = run_with(tmp_path, ON_SLURM), units_of(2)
    carry_out(run, units, listen=lambda _: finish(run, units, slurm))
    inherited = set((slurm / "1.environment").read_text().splitlines())
    assert inherited & names == (choices if within_job else names)
    assert names <= os.environ.keys()


def test_missing_submitit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"pip install submitit"):
        slurm_backend.require_slurm(run_with(tmp_path, LOCAL).settings)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"slurm_partion": "gpu"}, "slurm: .*'partion'"),
        ({"mail": "me"}, "slurm: .*'mail' need to be prefixed"),
        ({"timeout_min": "3h", "cluster": "local"}, "slurm: .*timeout_min"),
        ({"cluster": "lokal"}, "slurm: .* any executor named lokal"),
    ],
)
def test_wrong_parameters_are_refused(
    tmp_path: Path, slurm: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        slurm_backend.require_slurm(run_with(tmp_path, parameters).settings)


def test_settings_replace_the_default_resources(tmp_path: Path, slurm: Path) -> None:
    given = {"timeout_min": 7, "slurm_cpus_per_task": 5, "name": "mine"}
    settings = run_with(tmp_path, given).settings
    executor = slurm_backend.make_executor(settings, tmp_path / "jobs", "n")
    assert executor.parameters == {"time": 7, "cpus_per_task": 5, "job_name": "mine"}
