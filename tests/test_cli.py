"""The command: one message with cause and remedy for a mistake, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from prism_nb import cli, terminal
from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from prism_nb.execution.verify import Finding, VerificationReport
from tests.helpers.command import Result, call


@pytest.fixture
def prism(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Call the command with some words; runs are in `tmp_path`."""
    monkeypatch.setenv("PRISM_RUNS", str(tmp_path))
    return lambda words: call(monkeypatch, capsys, *words.split())


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def refused(result: Result, cause: str, remedy: str) -> None:
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert cause in result.err
    assert remedy in result.err
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        ("run digitz", "unknown preset 'digitz'", "did you mean 'digits'"),
        ("run nowhere.yaml", "preset nowhere.yaml does not exist", "name a YAML file"),
        ("run digits_quick --set ipc", "--set 'ipc'", "write name=value, e.g. --set ipc=5"),
        ("run digits_quick --set ipc=[1", "--set ipc is not valid YAML", "expected ',' or ']'"),
        ("run digits_quick --set recipe.iteration=5", "'iteration'", "mean 'iterations'"),
        ("run digits_quick --set device=gpu", "'gpu' is no device", "use auto, cpu, cuda"),
        ("run --run nope", "no run at", "a new run needs a preset"),
        ("verify nope", "no run at", "none exist"),
        ("stage nope synthesis", "no run at", "none exist"),
        ("plan digits_quick --size 0 20 3", "Invalid value for '--size'", "--help"),
        ("plan imagenet1k_ipc50", "has no real images", "--set data_dir=PATH"),
        ("run", "name a run or a preset", ""),
        ("run --run mine --recipe mine.yaml", "--recipe adds to the methods of a preset", "name"),
        ("frobnicate", "No such command 'frobnicate'", "--help"),
        ("run digits_quick --bogus", "No such option '--bogus'", "--help"),
    ],
)
def test_a_mistake_ends_with_one_message(
    tmp_path: Path, prism: Any, words: str, cause: str, remedy: str
) -> None:
    refused(prism(words), cause, remedy)
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch() -> None:
    code = "import sys, prism_nb.cli; print({'torch', 'pandas', 'pyarrow'} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_unknown_stage_is_refused(run: Run, prism: Any) -> None:
    refused(prism("stage r synthesiss"), "unknown stage 'synthesiss'", "did you mean 'synthesis'")


def test_verify_of_a_damaged_run_exits_with_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, prism: Any
) -> None:
    finding = Finding("damaged", "squeeze unit x", "no marker", "run it again")
    report = VerificationReport({"squeeze": (4, 5)}, (finding,))
    monkeypatch.setattr("prism_nb.execution.verify.verify_run", lambda _: report)
    result = prism("verify r")
    assert result.code == 1
    assert "4 of 5 units complete and undamaged" in result.out
    assert "damaged: squeeze unit x: no marker\n  run it again" in result.out
    assert "damage: 1 findings" in result.err


def test_counting_needs_neither_images_nor_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prism: Any
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    words = "plan imagenet1k_ipc1 --count --at 400 --size 7 70 14 --set methods=[sre2l]"
    result = prism(words + " --set students=[shufflenet_v2_x0_5]")
    assert result.code == 0
    assert "7 classes, 70 training and 14 held-out images, 224 px" in result.out
    # 4,000 steps of seven images, forward and back to them, by a head of 7 classes
    steps = 4000 * 7 * 2 * (3_628_146_688 - 2 * 512 * (1000 - 7)) / 1e15
    row = next(line.split() for line in result.out.splitlines() if "synthesis" in line)
    assert row[:5] == ["synthesis", "sre2l", "1", "8", "0.00"]
    assert row[-2:] == [f"{steps:.2f}", "0.0"]
    assert "assumed 400 TFLOP/s" in result.out
    assert list(tmp_path.iterdir()) == []


def test_status_ignores_damaged_events(run: Run, prism: Any) -> None:
    run.write_classes(open_dataset(run.settings).class_records())
    run.events.append("squeeze", event="unit_start", unit="test_resnet")
    fileio.append_line(run.path / "events" / "squeeze.jsonl", '{"event": "unit_st')
    result = prism("status r")
    assert result.code == 0
    assert "unit_start test_resnet" in result.out


def test_answers_without_work_import_no_torch(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", load_settings("digits_quick"))
    run.write_classes(open_dataset(run.settings).class_records())
    commands = {
        "--help": 0,
        "methods": 0,
        "protocols": 0,
        "runs": 0,
        "status r": 0,
        "results r": 0,
        "compare r r": 2,
        "status s": 2,
        "run digitz": 2,
        "run digits --set ipcs=1": 2,
        "run digits --set dataset=dogits": 2,
        "run digits --set methods=[prisn]": 2,
        "run digits --set teachers=[resnet81]": 2,
        "run imagenet1k_ipc1 --set data_dir=nowhere": 2,
        "plan --run r --set students=[resnet81]": 2,
        "catalogue resnet18": 0,
        "plan --run r --set student_loss=mse": 2,
        "stage r sqeeze": 2,
        "study evidenze": 2,
        "export s prism x.zip": 2,
        "import nowhere --run r": 2,
    }
    script = f"""
import contextlib, io, sys
from prism_nb.cli import main
for words, code in {commands}.items():
    sys.argv = ["prism-nb", *words.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
            found = 0
        except SystemExit as end:
            found = end.code
    assert found == code, (words, found)
    assert "torch" not in sys.modules, words
    assert "pyarrow" not in sys.modules or "pandas" in sys.modules, words  # which imports it
"""
    subprocess.run(
        [sys.executable, "-c", script], check=True, env=os.environ | {"PRISM_RUNS": str(tmp_path)}
    )


def test_runs_are_listed_with_what_is_done(run: Run, prism: Any) -> None:
    run.write_classes(open_dataset(run.settings).class_records())
    fileio.write_text(run.path.parent / "old" / "config.yaml", "no_such_setting: 1\n")
    result = prism("runs")
    assert result.code == 0
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    assert lines["r"].split()[1:5] == ["new", "0", "of", "27"]
    assert "another version made the run" in lines["old:"]
    listed = {each["run"]: each for each in json.loads(prism("runs --json").out)}
    assert listed["r"]["methods"] == list(run.settings.methods)
    assert listed["r"]["bytes"] == sum(len(content) for content in files(run.path).values())
    assert "problem" in listed["old"]


def finish_students(run: Run, accuracies: dict[str, list[float]]) -> None:
    """Write the records of students of each method, a seed each, and the class order."""
    run.write_classes(open_dataset(run.settings).class_records())
    for unit in pipeline.stage_units(run, "evaluation"):
        seeds = accuracies.get(unit.params["method"], [])
        if unit.params["seed"] < len(seeds):
            record = {"last": seeds[unit.params["seed"]], "top5": 1.0}
            run.units.finish(unit, paths=[], record=record)


def test_results_and_their_comparison(tmp_path: Path, prism: Any) -> None:
    settings = load_settings("digits_quick", {"methods": ["prism", "sre2l"]})
    first = Run.create(tmp_path / "a", settings)
    other = load_settings("digits_quick", {"methods": ["prism"], "ipc": 5, "image_size": 64})
    second = Run.create(tmp_path / "b", other)
    finish_students(first, {"prism": [0.5, 0.6], "sre2l": [0.4]})
    finish_students(second, {"prism": [0.75, 0.75]})
    shown = prism("results a").out
    assert "chance 10 %" in shown
    assert "55.0 ± 7.1" in shown
    rows = {
        row["method"]: row["scores"] for row in json.loads(prism("results a --json").out)["rows"]
    }
    student = first.settings.students[0]
    assert rows["prism"][student] == {
        "top1": pytest.approx(55), "std": pytest.approx(7.0710678), "top5": 100, "seeds": 2
    }  # fmt: skip
    assert rows["sre2l"][student]["std"] is None
    found = json.loads(prism("compare a b --json").out)
    assert found["settings"]["image_size"] == [32, 64]
    differences = {(row["title"], row["student"]): row["difference"] for row in found["rows"]}
    assert differences["PRISM", student] == pytest.approx(20)
    assert differences["SRe2L", student] is None
    assert "image_size" in found["notes"][0]
    text = prism("compare a b")
    assert "+20.0" in text.out
    assert "their accuracies do not compare" in text.err


def test_a_report_is_opened_by_its_link(run: Run, prism: Any) -> None:
    refused(prism("open r"), "run r has no report yet", "prism-nb run --run r")
    refused(prism("open s"), "no run at", "valid: r")
    fileio.write_text(run.path / "figures" / "report.html", "")
    assert prism("open r").out == f"{(run.path / 'figures' / 'report.html').as_uri()}\n"


def test_a_plan_of_other_settings_is_that_of_a_new_run(run: Run, prism: Any) -> None:
    taken = Run.create(run.path.parent / "digits_quick", load_settings("digits_quick"))
    taken.write_classes(open_dataset(taken.settings).class_records())
    fileio.write_text(taken.path / "synthesis" / "prism" / "units" / "x.json", "{}")
    before = files(taken.path.parent)
    result = prism("plan digits_quick --set ipc=3 --quick")
    assert result.code == 0
    assert "such as --run digits_quick-2" in result.err
    assert "digits_quick-2" in result.out
    assert files(taken.path.parent) == before
    refused(prism("plan digits_quick --run digits_quick --set ipc=3"), "ipc is 2", "run name")


def test_a_study_is_planned_for_programs(tmp_path: Path, prism: Any) -> None:
    found = json.loads(prism("study ablation_quick --plan --json").out)
    assert found["path"] == str(tmp_path / "ablation_quick")
    assert [part["part"] for part in found["parts"]] == ["search", "scenarios"]
    assert all(part["runs"] > part["done"] == 0 for part in found["parts"])
    assert all(part["seconds_left"] is None for part in found["parts"])
    refused(prism("study ablation_quick --json"), "--json prints a plan", "add --plan")


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        ("prism-nb run digits_q", 2, ["plain,digits_quick"]),
        ("prism-nb status ", 2, ["plain,r"]),
        ("prism-nb stage r sy", 3, ["plain,synthesis"]),
        ("prism-nb export r random", 3, ["plain,random_real"]),
        ("prism-nb study ablation_q", 2, ["plain,ablation_quick"]),
    ],
)
def test_names_are_completed(
    run: Run, prism: Any, monkeypatch: pytest.MonkeyPatch, words: str, at: int, expected: list[str]
) -> None:
    monkeypatch.setenv("_PRISM_NB_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(at))
    assert prism("").out.split() == expected


def test_text_is_wrapped_and_coloured_in_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"state": "finished", "n": 1234, "text": "word " * 30}]
    terminal.echo_table(rows)
    plain = capsys.readouterr().out
    assert plain.splitlines()[1].startswith("finished  1,234  word word")
    assert len(plain.splitlines()) == 2
    assert "\x1b" not in plain
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal.echo_table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b[32mfinished" in lines[1]
    assert len(lines) == 1 + 4
    assert max(len(click.unstyle(line)) for line in lines) <= 60


def test_without_arguments_there_is_help(prism: Any) -> None:
    assert prism("").code == 0
    summaries = prism("").out.partition("Commands:")[2].splitlines()[1:]
    assert not [line for line in summaries if line.endswith("...")]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "the same command continues where it stopped"),
        (OSError(28, "No space left on device"), 1, "No space left on device; nothing that was"),
        (ZeroDivisionError("no"), 1, "ZeroDivisionError: no; this is a defect of the kit"),
    ],
)
def test_failures_have_a_message_and_an_exit_code(
    tmp_path: Path,
    prism: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def command(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "cli", command)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    result = prism("run digits_quick")
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err
    logs = list(tmp_path.glob("prism-nb-error-*.log"))
    assert len(logs) == isinstance(error, ZeroDivisionError)
    for log in logs:
        assert str(log) in result.err
        assert "Traceback" in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o600
