"""One stage in a process of its own: started, stopped, resumed, and refused in words."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.synthesis.test_snapshots import SMALL, hashes

from prism_nb.core.run import Run
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.viz.monitor import last_log_line, start_stage
from prism_nb.viz.widgets.run_monitor import RunMonitor
from tests.helpers.synthesis_run import refresh_until
from tests.test_cli_errors import call

LONG: dict[str, Any] = {**SMALL, "methods": ["prism"], "recipe": {"iterations": 30}}


def ready(folder: Path, name: str) -> Run:
    run = open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes={**LONG}
    )
    pipeline.execute(run, "squeeze")
    return run


def test_a_stopped_run_is_resumed_to_the_same_images(tmp_path: Path) -> None:
    run, undisturbed = ready(tmp_path, "stopped"), ready(tmp_path, "undisturbed")
    children: list[subprocess.Popen[bytes]] = []

    def launch(run: Run) -> "subprocess.Popen[bytes]":
        children.append(start_stage(run))
        return children[-1]

    monitor = RunMonitor(run, every=0, start=launch)
    monitor.start.click()
    refresh_until(monitor, "on this machine")
    while "step " not in monitor.numbers.value:
        monitor.refresh()
    RunMonitor(run.path, every=0).stop.click()  # as from another kernel
    refresh_until(monitor, "Stopped. Finished units are kept")
    assert children[0].wait(60) == 130
    assert "the same command continues" in last_log_line(run)
    assert pipeline.plan(run, "synthesis").counts["damaged"] == 0

    monitor.start.click()
    refresh_until(monitor, "Finished")
    assert children[1].wait(60) == 0
    assert run.locks.driver("synthesis") is None
    pipeline.check(run, "synthesis")
    pipeline.execute(undisturbed, "synthesis")
    assert len(hashes(run)) == 20
    assert hashes(run) == hashes(undisturbed)
    kinds = [event["event"] for event in run.events.read("synthesis")]
    assert kinds.count("start") == 2
    assert kinds.count("stopped") == 1
    assert kinds[-1] == "complete"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("r synthesiss", "did you mean 'synthesis'"),
        ("nowhere synthesis", "no run at"),
        ("r synthesis", "stage squeeze of run r is not complete"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    folder = str(run.path.parent)
    result = call(monkeypatch, capsys, "stage", *arguments.split(), "--runs-dir", folder)
    assert result.code in {1, 2}
    assert words in result.err


def test_a_failure_is_told_in_the_event_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr(pipeline, "run_units", broken)
    with pytest.raises(ValueError, match="no such luck"):
        pipeline.execute_units(run, "squeeze", pipeline.stage_units(run, "squeeze"))
    kinds = {event["event"]: event for event in run.events.read("squeeze")}
    assert list(kinds) == ["start", "failed"]
    assert kinds["failed"]["reason"] == "no such luck"
