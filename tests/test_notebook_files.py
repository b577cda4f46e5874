"""The committed notebooks keep the house's habits."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core.settings import Settings
from prism_nb.execution.pipeline import STAGES
from prism_nb.headless import REPORT, STUDY

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
START = "00_start"
OF_STUDIES = (STUDY, "08_diagnostics")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the source of each code cell, and the cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [("".join(cell["source"]), cell) for cell in cells if cell["cell_type"] == "code"]


def test_there_is_a_notebook_per_stage_one_before_and_three_after() -> None:
    expected = {START, *(stage.notebook for stage in STAGES.values()), REPORT, *OF_STUDIES}
    assert {path.stem for path in NOTEBOOKS} == expected


@every_notebook
def test_parameters_are_annotated_known_and_explained(path: Path) -> None:
    (source,) = [s for s, cell in code_of(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert source.startswith("# Parameters")
    valid = {*Settings.fields(), "run_name", "preset", "runs_dir"}
    if path.stem in OF_STUDIES:
        valid = {"study", "name", "runs_dir", "workers"}
    for line, statement in zip(source.splitlines()[1:], ast.parse(source).body, strict=True):
        assert isinstance(statement, ast.AnnAssign)
        assert isinstance(statement.value, ast.Constant)
        assert statement.target.id in valid
        assert "  # " in line


@every_notebook
def test_cells_are_short_stripped_and_interactive_ones_are_skipped(path: Path) -> None:
    assert "papermill" not in json.loads(path.read_text())["metadata"]
    for source, cell in code_of(path):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert len(source.splitlines()) <= 12
        assert "def " not in source
        only_displays = source.startswith("display(") and len(cell["source"]) == 1
        skipped = {"skip-execution", "nbval-skip"} <= set(cell["metadata"].get("tags", []))
        assert skipped == only_displays
