"""The whole series on the quick digits, as a user runs it: command line, papermill, nbval."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run
from prism_nb.headless import STUDY
from prism_nb.viz.tables import accuracy_table
from tests.helpers.command import ROOT, call, execute
from tests.helpers.jupyter_lab import set_parameters

NOTEBOOKS = ROOT / "notebooks"
prism = partial(execute, "prism-nb")


@pytest.fixture(scope="module")
def runs(
    finished_runs: Path, finished_study: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the finished run `digits`, and a study that lacks one student."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(finished_runs, folder, dirs_exist_ok=True)
    shutil.copytree(finished_study, folder, dirs_exist_ok=True)
    student = next(folder.glob("small/plain-1/evaluation/prism/*"))
    shutil.rmtree(student)
    return folder


@pytest.fixture
def run(runs: Path) -> Path:
    return runs / "digits"


def markers(run: Path) -> dict[str, float]:
    found = [*run.glob("**/units/*.json"), *run.glob("*/**/unit.json")]
    return {str(path): path.stat().st_mtime for path in found}


def test_the_run_ends_with_the_table_the_time_and_the_report(run: Path, runs: Path) -> None:
    output = (runs / "output.txt").read_text()
    for text in ("PRISM", "SRe2L", "Random real", "±", "wall time", "report.html"):
        assert text in output
    report = (run / "figures" / "report.html").read_text()
    assert "data:image/png;base64" in report
    assert "<script src=" not in report
    assert "https://cdn" not in report.split("</script>")[-1]
    assert len(report) < 20e6


def test_every_notebook_is_kept_without_errors(run: Path) -> None:
    executed = sorted((run / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in executed] == [
        path.stem for path in sorted(NOTEBOOKS.glob("0[1-6]*.ipynb"))
    ]
    for path in executed:
        assert path.stat().st_size < 5e6, path.name
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                assert output["output_type"] != "error"
                assert output.get("name") != "stderr", output


def test_a_second_call_redoes_nothing(run: Path, runs: Path) -> None:
    before, report = markers(run), run / "figures" / "report.html"
    assert len(before) == 5 + 3 + 3 + 12
    result = prism("run", "--run", "digits", runs=runs)
    assert result.returncode == 0
    assert result.stdout.count("done before") == 6
    assert markers(run) == before
    report.unlink()
    result = prism("run", "--run", "digits", runs=runs)
    assert result.stdout.count("done before") == 5
    assert report.is_file()


def test_the_notebooks_pass_nbval_from_clean_kernels(run: Path, runs: Path, tmp_path: Path) -> None:
    before, students = markers(run), set(runs.glob("small/*/evaluation/*/*/unit.json"))
    notebooks = shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    for name in (STUDY, "08_diagnostics"):
        set_parameters(notebooks / f"{name}.ipynb", study=str(runs / "small.yaml"))
    result = execute(
        *("python", "-m", "pytest", "--nbval-lax", "--nbval-current-env"),
        *("--nbval-cell-timeout=300", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="),
        *("--rootdir", notebooks, notebooks),
        runs=runs,
    )
    assert result.returncode == 0, result.stdout
    assert markers(run) == before
    assert len(set(runs.glob("small/*/evaluation/*/*/unit.json")) - students) == 1


def test_the_run_of_the_notebooks_ends_far_above_chance(tmp_path: Path) -> None:
    """A shorter demo: PRISM's images, and the student of no teacher's family."""
    teachers = ["test_resnet", "test_byobnet"]
    less = {"methods": ["prism"], "teachers": teachers, "holdout_networks": []}
    less |= {"feature_networks": ["test_byobnet"], "squeeze_epochs": 5, "label_epochs": 60}
    own = {**less, "students": ["test_mambaout"], "student_seeds": 1}
    own["recipe"] = {"iterations": 120}
    run = open_run(run_name="digits", preset="digits", runs_dir=tmp_path, changes=own)
    for stage in ("squeeze", "synthesis", "relabel", "evaluation"):
        pipeline.execute(run, stage)
    assert accuracy_table(run)["mean"].item() > 30  # percent; chance is 10


def test_plain_papermill_takes_a_preset_file(run: Path, runs: Path) -> None:
    preset = NOTEBOOKS / "presets" / "digits_quick.yaml"
    arguments = ("-f", preset, "-p", "run_name", "digits")
    result = execute(
        "papermill", NOTEBOOKS / "02_synthesis.ipynb", "out.ipynb", *arguments, runs=runs
    )
    assert result.returncode == 0, result.stderr


def test_plain_papermill_refuses_settings_of_another_run(run: Path, runs: Path) -> None:
    notebook = NOTEBOOKS / "02_synthesis.ipynb"
    result = execute("papermill", notebook, "bad.ipynb", "-p", "ipc", "3", runs=runs)
    assert result.returncode == 1
    assert "ipc is 2 in the run, 3 is requested" in result.stderr


def test_status_and_verify_of_a_whole_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("digits", "--runs-dir", run.parent)
    status, verify = (call(monkeypatch, capsys, name, *where) for name in ("status", "verify"))
    assert status.code == verify.code == 0
    assert "evaluation  12 of 12 units complete and undamaged" in verify.out
    assert "last event" in status.out


def test_a_further_method_joins_the_run_and_the_rest_is_kept(run: Path, runs: Path) -> None:
    before = markers(run)
    more = {"methods": ["prism", "sre2l", "random_real", "herding"]}
    joined = open_run(run_name="digits", runs_dir=runs, changes=more)
    for stage in pipeline.STAGES:
        pipeline.execute(joined, stage)
    after = markers(run)
    assert all(after[path] == time for path, time in before.items())
    assert len(after) == len(before) + 1 + 1 + 4  # images, labels, students
