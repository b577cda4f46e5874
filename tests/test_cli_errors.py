"""What the command says to a mistake: one message with cause and remedy, and nothing written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prism_nb import cli
from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset

_BAD_NAME = "use letters, digits, dot, dash and underscore"


class Result:
    """What one call of the command left behind."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> Result:
    """Call the command in this process."""
    monkeypatch.setattr(sys, "argv", ["prism-nb", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capsys.readouterr()
    return Result(caught.value.code, captured.out, captured.err)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        ("run digitz", "unknown preset 'digitz'", "did you mean 'digits'"),
        ("plan digitz", "unknown preset 'digitz'", "did you mean 'digits'"),
        ("run nowhere.yaml", "preset nowhere.yaml cannot be read", "No such file"),
        ("plan q --set ipcc=3", "unknown setting 'ipcc'", "did you mean 'ipc'"),
        ("run q --set ipc=two", "ipc: ", "valid integer, got 'two'"),
        ("run q --set ipc=2.5", "ipc: ", "valid integer, got 2.5"),
        ("run q --set ipc=", "ipc: ", "valid integer, got None"),
        ("run q --set ipc=0", "ipc: ", "greater than or equal to 1, got 0"),
        ("run q --set squeeze_lr=010", "squeeze_lr: ", "valid number, got '010'"),
        ("run q --set label_flip=on", "label_flip: ", "valid boolean, got 'on'"),
        (
            "run q --set label_mix=mosaic",
            "label_mix: ",
            "'cutmix', 'mixup' or 'none', got 'mosaic'",
        ),
        (
            "run q --set teachers=test_resnet",
            "teachers: ",
            "got 'test_resnet'; write [test_resnet] for a network",
        ),
        ("run q --set ipc", "--set 'ipc'", "write name=value, e.g. --set ipc=5"),
        ("plan q --set =5", "--set '=5'", "write name=value"),
        ("run q --set ipc=[1", "--set ipc is not valid YAML", "expected ',' or ']'"),
        ("run q --set recipe=5", "recipe: ", "should be a mapping of names, got 5"),
        ("run q --set a=1 --set a.b=1", "--set 'a.b=1'", "a is set to a plain value as well"),
        ("run q --set recipe.iteration=5", "unknown setting 'iteration'", "mean 'iterations'"),
        ("run q --set recipes.prism.lrr=5", "unknown setting 'lrr'", "mean 'lr'"),
        ("run q --set recipes.prsm.lr=5", "'prsm' is not among the methods", "mean 'prism'"),
        ("run q --set recipe.lr=0", "recipe prism: lr: ", "greater than 0, got 0"),
        ("run q --set methods=[prsm]", "unknown method 'prsm'", "did you mean 'prism'"),
        ("run q --set methods=[]", "methods", "name at least one"),
        ("run q --set methods=[prism,prism]", "methods", "prism is named twice"),
        ("run q --set holdout_networks=[test_resnet]", "also a teacher", "take it out of one"),
        ("run q --set primary=test_mambaout", "is not in the pool", "test_resnet"),
        ("run q --set label_teachers=[test_resnt]", "never trained", "mean 'test_resnet'"),
        ("run q --set device=gpu", "'gpu' is no device", "use auto, cpu, cuda or cuda:N"),
        ("status nope", "no run at", "none exist"),
        ("run --run nope", "no run at", "a new run needs a preset"),
        ("plan --run nope --set ipc=3", "no run at", "a new run needs a preset"),
        ("verify nope", "no run at", "none exist"),
        ("plan q --run a:b", "run name 'a:b'", _BAD_NAME),
        ("plan q --run ..", "run name '..'", _BAD_NAME),
        ("plan q --run .hidden", "run name '.hidden'", _BAD_NAME),
    ],
)
def test_mistake_ends_with_one_message_and_nothing_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    cause: str,
    remedy: str,
) -> None:
    words = ["digits_quick" if word == "q" else word for word in arguments.split()]
    result = call(monkeypatch, capsys, *words, "--runs-dir", str(tmp_path / "runs"))
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("error: ") == 1
    assert result.err.count("\n") == 1
    assert cause in result.err
    assert remedy in result.err
    assert "Traceback" not in result.out + result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run", "Missing argument 'PRESET'"),
        ("plan", "--run with a run that exists"),
        ("run --run mine --recipe mine.yaml", "--recipe adds to the methods of a preset"),
        ("status", "Missing argument 'RUN_NAME'"),
        ("frobnicate", "No such command 'frobnicate'"),
        ("run digits_quick --bogus", "No such option '--bogus'"),
        ("run digits_quick sre2l", "unexpected extra argument (sre2l)"),
        ("status nope --set ipc=3", "No such option '--set'"),
    ],
)
def test_command_line_that_cannot_be_meant_is_refused_with_a_way_to_help(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.setenv("PRISM_RUNS", str(tmp_path / "runs"))
    result = call(monkeypatch, capsys, *arguments.split())
    assert result.code == 2
    assert result.err.lower().count("error: ") == 1
    assert message in result.err
    assert "--help" in result.err
    assert "Traceback" not in result.out + result.err
    assert list(tmp_path.iterdir()) == []


def test_runs_dir_that_is_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("in the way")
    result = call(monkeypatch, capsys, "status", "nope", "--runs-dir", str(tmp_path / "runs"))
    assert result.code == 2
    assert "is a file" in result.err
    assert (tmp_path / "runs").read_text() == "in the way"


@pytest.mark.parametrize("name", ["../outside", "a/b", "/tmp/outside"])
def test_run_name_that_leaves_the_folder_of_the_runs_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    # Without the refusal, `plan` would go on to its slow part; that it gets there is enough.
    monkeypatch.setattr(cli, "_print_plans", lambda run: sys.exit(f"went on with {run.path}"))
    result = call(
        monkeypatch, capsys, "plan", "digits_quick", "--run", name, "--runs-dir", str(tmp_path)
    )
    assert result.code == 2
    assert _BAD_NAME in result.err


@pytest.mark.parametrize("command", ["status", "verify"])
def test_unknown_run_is_refused_with_the_nearest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    Run.create(tmp_path / "first-demo", load_settings("digits_quick"))
    before = contents(tmp_path)
    result = call(monkeypatch, capsys, command, "frist-demo", "--runs-dir", str(tmp_path))
    assert result.code == 2
    assert result.err == (
        f"error: no run at {tmp_path / 'frist-demo'}, and a new run needs a preset; "
        "did you mean 'first-demo'?\n"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["status", "verify"])
def test_run_with_a_damaged_config_is_refused_by_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    fileio.write_text(tmp_path / "demo" / "config.yaml", "- no settings\n")
    result = call(monkeypatch, capsys, command, "demo", "--runs-dir", str(tmp_path))
    assert result.code == 2
    assert result.err.startswith(f"error: {tmp_path / 'demo' / 'config.yaml'} is damaged")


def test_plan_of_other_settings_than_the_results_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(tmp_path / "demo", load_settings("digits_quick"))
    fileio.write_text(run.path / "labels" / "prism" / "unit.json", "{}")
    before = contents(tmp_path)
    arguments = ("--run", "demo", "--runs-dir", str(tmp_path), "--set", "ipc=3")
    result = call(monkeypatch, capsys, "plan", "digits_quick", *arguments)
    assert result.code == 2
    assert "ipc is 2 in the run, 3 asked for" in result.err
    assert "Choose another run name" in result.err
    assert result.err.count("error: ") == 1
    assert contents(tmp_path) == before


def test_verify_of_a_damaged_run_exits_with_1_and_names_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(tmp_path / "demo", load_settings("digits_quick"))
    run.write_classes(open_dataset(run.settings).class_records())
    fileio.write_text(run.path / "teachers" / "units" / "test_coatnet.json", "{")
    before = contents(tmp_path)
    result = call(monkeypatch, capsys, "verify", "demo", "--runs-dir", str(tmp_path))
    assert result.code == 1
    assert "damaged: teachers unit test_coatnet: damaged: teachers/units" in result.out
    assert "prism-nb run --run demo does it, and what it feeds, again" in result.out
    assert "1 finding of damage" in result.err
    assert "Traceback" not in result.out + result.err
    assert contents(tmp_path) == before


def test_interrupt_exits_with_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "cli", interrupt)
    result = call(monkeypatch, capsys, "run", "digits_quick")
    assert result.code == 130
    assert "the same command continues where it stopped" in result.err
    assert "Traceback" not in result.out + result.err


def test_failure_in_the_kit_itself_is_not_dressed_up_as_a_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def break_down(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "cli", break_down)
    (tmp_path / "prism-nb-error.log").symlink_to(tmp_path / "somebody's")
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "ZeroDivisionError" in message
    assert "a defect of the kit" in message
    assert "Traceback" not in message
    (log,) = tmp_path.glob("prism-nb-error-*.log")
    assert str(log) in message
    assert "break_down" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "somebody's").exists()


def test_failure_whose_trace_cannot_be_kept_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def break_down(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "cli", break_down)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(SystemExit):
        cli.main()
    assert "please report it. Finished work is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ['"time": "noon"', '"time": 1e300', '"time": null', '"event": 5', '"time": true', '"unit": []'],
)
def test_status_passes_over_damaged_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    run = Run.create(tmp_path / "demo", load_settings("digits_quick"))
    run.write_classes(open_dataset(run.settings).class_records())
    run.events.append("squeeze", event="unit_start", unit="test_resnet")
    fileio.append_line(run.path / "events" / "teachers.jsonl", f'{{"event": "unit_end", {line}}}')
    monkeypatch.setattr(cli, "_print_plans", lambda run: None)
    monkeypatch.setattr(sys, "argv", ["prism-nb", "status", "demo", "--runs-dir", str(tmp_path)])
    cli.main()
    assert "begin test_resnet" in capsys.readouterr().out
