"""What a failing notebook does to a headless run: one message, and the notebook is saved."""

import json
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
