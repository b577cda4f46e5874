"""What a failing notebook does to a headless run: one message, and the notebook is saved."""

import json
import sys
from pathlib import Path

import pytest

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.headless import execute_notebook, notebook_path

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    ("name", "kind", "message", "traceback"),
    [
        ("dying_kernel", PrismError, "kernel of dying_kernel died", ""),
        ("exception", PrismError, "ZeroDivisionError: division by zero", "ZeroDivisionError"),
        ("user_mistake", UsageError, "teachers: name at least one", "teachers: name at least one"),
        ("unknown_parameter", UsageError, "parameter 'icp'; did you mean 'ipc'", "UsageError"),
    ],
)
def test_a_failed_notebook_is_kept_and_ends_with_one_message(
    run: Run, name: str, kind: type[PrismError], message: str, traceback: str
) -> None:
    parameters = {"run_name": run.name, "runs_dir": str(run.path.parent)}
    with pytest.raises(kind) as caught:
        execute_notebook(FIXTURES / f"{name}.ipynb", run.path, parameters)
    assert message in str(caught.value)
    cells = json.loads(notebook_path(run, name).read_text())["cells"]
    errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert len(errors) == bool(traceback)
    for error in errors:
        assert str(notebook_path(run, name)) in str(caught.value)
        assert traceback in "".join(error["traceback"])
        assert len(error["traceback"]) == 1 or kind is PrismError  # users see no stack trace


def test_a_kernel_is_this_interpreters_and_reads_no_profile(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, startup = tmp_path / "jupyter/kernels/python3", tmp_path / "ipython/profile_default"
    marks = [tmp_path / "startup", tmp_path / "profile"]
    for folder in (other, startup / "startup"):
        folder.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "another", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    scripts = [tmp_path / "startup.py", startup / "startup/00.py"]
    for script, mark in zip(scripts, marks, strict=True):
        script.write_text(f"open({str(mark)!r}, 'w').close()")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(scripts[0]))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/dev/null/no_folder")  # as in a read-only home
    (tmp_path / "types.py").write_text("this is no module of Python")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrismError, match="ZeroDivisionError"):
        execute_notebook(FIXTURES / "exception.ipynb", run.path, {})
    assert not any(mark.exists() for mark in marks)


def test_a_kernel_that_does_not_start_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PrismError, match="did not start.*`/bin/false -m ipykernel_launcher`"):
        execute_notebook(FIXTURES / "exception.ipynb", run.path, {})
