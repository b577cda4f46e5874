"""The house rules: rooms import from floors below only, and the two dependency lists agree."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "prism_nb"

FLOORS: list[set[str]] = [
    {
        "errors",
        "strict",
        "recipes",
        "protocols",
        "pools",
        "settings",
        "config",
        "files",
        "leases",
        "liveness",
        "units",
        "words",
        "records",
        "markers",
        "mixing",
        "provenance",
        "run",
        "plans",
    },
    {"device", "torch_files", "data", "backends"},
    {"teachers", "catalogue", "artifacts", "exchange", "training"},
    {"synthesis", "labels", "diversity", "evaluation"},
    {
        "pipeline",
        "opening",
        "counts",
        "preflight",
        "progress",
        "monitor",
        "tables",
        "forecast",
        "room",
        "class_names",
        "absent_units",
        "diversity_tables",
        "image_tables",
        "scoreboard",
        "figures",
        "widgets",
        "report",
        "study",
        "sets",
        "verification",
    },
    {
        "notebook",
        "headless",
        "cli",
        "cli_sets",
        "cli_catalogue",
        "cli_stage",
        "cli_study",
        "cli_lists",
        "cli_counts",
        "cli_options",
        "__main__",
    },
]
SHOW = {"ipywidgets", "plotly", "papermill", "IPython", "nbclient"}
STAGES = FLOORS[3]


def floor_of(room: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem != "__init__"
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    mine = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "prism_nb" or parts[1] in {mine, "__version__"}:
            continue
        assert floor_of(parts[1]) <= floor_of(mine), f"{path} imports {name}"
        if mine in STAGES:
            assert parts[1] not in STAGES, (
                f"stages meet through the run only: {path} imports {name}"
            )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_upper_floors_know_of_notebooks_and_figures(path: Path) -> None:
    if floor_of(room_of(path)) < 4:
        assert not {name.split(".")[0] for name in imports(path)} & SHOW


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
