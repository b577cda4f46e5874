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
    "cli": 7,
    "__main__": 8,
}
DISPLAY = {"ipywidgets", "plotly", "papermill", "IPython", "nbclient"}


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_from_lower_floors_or_their_own_package(path: Path) -> None:
    own = package_of(path)
    for name in imports(path):
        root, *parts = name.split(".")
        if root == "prism_nb" and parts[0] not in {own, "__version__"}:
            assert FLOORS[parts[0]] < FLOORS[own], f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_upper_floors_import_display_libraries(path: Path) -> None:
    if FLOORS[package_of(path)] < 5:
        assert not {name.split(".")[0] for name in imports(path)} & DISPLAY


def requirement_name(requirement: str) -> str:
    return requirement.split(">=")[0].split("==")[0].strip().lower()


def test_environment_and_pyproject_list_the_same_packages_and_floors() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(item["pip"] for item in listed if isinstance(item, dict))
    conda = {item for item in listed if isinstance(item, str)}
    assert {item for item in conda if requirement_name(item) not in {"python", "pip", "make"}} | {
        item for item in pip if not item.startswith("-e")
    } == wanted


def test_tests_have_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    assert {each for packages in extras.values() for each in packages} <= set(extras["test"])


def test_every_line_of_the_environment_gives_its_purpose() -> None:
    lines = (ROOT / "environment.yml").read_text().splitlines()
    entries = [line for line in lines if line.strip().startswith("- ")]
    assert entries
    assert all("#" in line for line in entries if not line.strip().endswith(":"))


def test_torch_is_never_pinned_to_a_build() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "torch==" not in text
    assert "+cpu" not in text
