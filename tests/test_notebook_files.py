"""The committed notebooks keep the house's habits."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.settings import Settings
from prism_nb.execution.pipeline import STAGES
from prism_nb.headless import REPORT, STUDY

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def tags_of(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_there_is_a_notebook_per_stage_a_report_and_a_study() -> None:
    expected = {*(stage.notebook for stage in STAGES.values()), REPORT, STUDY}
    assert {path.stem for path in NOTEBOOKS} == expected


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_an_execution_is_committed(path: Path) -> None:
    assert "papermill" not in json.loads(path.read_text())["metadata"]
    for cell in code_of(path):
        assert not cell["outputs"]
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_annotated_known_and_explained(path: Path) -> None:
    (cell,) = [cell for cell in code_of(path) if "parameters" in tags_of(cell)]
    source = "".join(cell["source"])
    assert source.startswith("# Parameters")
    valid = {*Settings.fields(), "run_name", "preset", "runs_dir"}
    if path.stem == STUDY:
        valid = {"study", "name", "runs_dir", "workers"}
    for line, statement in zip(source.splitlines()[1:], ast.parse(source).body, strict=True):
        assert isinstance(statement, ast.AnnAssign)
        assert isinstance(statement.value, ast.Constant)
        assert statement.target.id in valid
        assert "  # " in line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_define_nothing(path: Path) -> None:
    sources = ["".join(cell["source"]) for cell in code_of(path)]
    for source in sources:
        assert len(source.splitlines()) <= 12
        assert not any(
            isinstance(node, (ast.FunctionDef, ast.ClassDef))
            for node in ast.walk(ast.parse(source))
        )
    assert sum(len(source.splitlines()) for source in sources) < 100
    assert 2 * len(sources) <= len(cells_of(path)) + 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_interactive_cells_are_skipped_by_papermill_and_nbval_alike(path: Path) -> None:
    for cell in code_of(path):
        only_displays = "".join(cell["source"]).startswith("display(") and len(cell["source"]) == 1
        interactive = {"skip-execution", "nbval-skip"} <= set(tags_of(cell))
        assert interactive == only_displays
