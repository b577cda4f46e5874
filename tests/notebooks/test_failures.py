"""What a failing notebook does to a headless run: one message, and the notebook is saved."""

import json
from pathlib import Path

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.headless import execute_notebook, notebook_path

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "quick", load_settings("digits_quick"))


def failure(run: Run, name: str, kind: type[PrismError]) -> str:
    parameters = {"run_name": run.name, "runs_dir": str(run.path.parent)}
    with pytest.raises(kind) as caught:
        execute_notebook(FIXTURES / f"{name}.ipynb", run.path, parameters)
    assert notebook_path(run, name).is_file()
    return str(caught.value)


def test_a_dead_kernel_is_not_a_failed_cell(run: Run) -> None:
    message = failure(run, "dying_kernel", PrismError)
    assert "kernel of dying_kernel died" in message
    assert "run the same command to continue" in message


def test_an_exception_names_itself_and_the_kept_notebook(run: Run) -> None:
    message = failure(run, "exception", PrismError)
    assert "ZeroDivisionError: division by zero" in message
    assert str(notebook_path(run, "exception")) in message
    assert "ZeroDivisionError" in notebook_path(run, "exception").read_text()


def test_a_users_mistake_keeps_its_kind_and_shows_no_stack_trace(run: Run) -> None:
    message = failure(run, "user_mistake", UsageError)
    assert message.startswith("teachers: name at least one")
    cells = json.loads(notebook_path(run, "user_mistake").read_text())["cells"]
    (error,) = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert error["traceback"] == ["UsageError: teachers: name at least one"]


def test_an_unknown_parameter_names_the_nearest(run: Run) -> None:
    message = failure(run, "unknown_parameter", UsageError)
    assert message.startswith("unknown parameter 'icp'; did you mean 'ipc'")
