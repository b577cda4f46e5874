"""Import floors of the packages, and agreement of the two dependency lists."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prism_nb"

FLOORS = {
    "core": 0,
    "data": 1,
    "models": 2,
    "synthesis": 3,
    "evaluation": 3,
    "diversity": 3,
    "execution": 4,
    "viz": 5,
    "notebook": 6,
    "headless": 6,
    "arguments": 6,
    "terminal": 6,
    "cli": 7,
    "__main__": 8,
}
DISPLAY = {"ipywidgets", "plotly", "papermill", "IPython", "nbclient"}
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_from_lower_floors_or_their_own_package(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        root, *parts = name.split(".")
        if root == "prism_nb" and parts[0] not in {own, "__version__"}:
            assert FLOORS[parts[0]] < FLOORS[own], f"{path} imports {name}"
        assert root not in DISPLAY or FLOORS[own] >= 5, f"{path} imports {name}"


def test_the_dependency_lists_agree_and_every_line_gives_its_purpose() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    text = (ROOT / "environment.yml").read_text()
    listed = yaml.safe_load(text)["dependencies"]
    conda = {item for item in listed if isinstance(item, str)}
    pip = next(item["pip"] for item in listed if isinstance(item, dict))
    tools = {item for item in conda if item.split(">=")[0] in {"python", "pip", "make"}}
    editable = {item for item in pip if item.startswith("-e")}
    assert {*conda, *pip} - tools - editable == {*project["dependencies"], *extras["test"]}
    assert {*extras["ray"], *extras["slurm"]} <= set(extras["test"])
    entries = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    assert all("#" in line for line in entries if not line.endswith(":"))
