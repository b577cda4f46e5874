"""Fixtures of the tests that drive a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser_page import CHROMIUM, checked_page, chromium
from tests.helpers.jupyter_lab import ROOT, Lab, lab_server, set_parameters, write_lab_settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where there is no browser."""
    for item in items:
        if CHROMIUM is None and Path(__file__).parent in item.path.parents:
            reason = "no Chromium here: apt-get install chromium"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; it ends with the file's tests, as others could not use asyncio beside it."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def place(
    finished_runs: Path, finished_study: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder like a clone, with a finished run `digits` and a finished study `small`."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(finished_runs, folder / "runs")
    shutil.copytree(finished_study, folder / "runs", dirs_exist_ok=True)
    notebooks = shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    two = ["test_mambaout", "test_byobnet"]
    set_parameters(notebooks / "03_diversity.ipynb", feature_networks=two)
    for notebook in ("07_ablation", "08_diagnostics"):
        set_parameters(notebooks / f"{notebook}.ipynb", study=str(folder / "runs" / "small.yaml"))
    # Cells out of sight are drawn too, and the last one ends the page.
    write_lab_settings(folder, "notebook/tracker", windowingMode="none", scrollPastEnd=False)
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """The address of a JupyterLab over that folder."""
    with lab_server(place) as address:
        yield address


@pytest.fixture
def lab(server: str, browser: Any, place: Path) -> Iterator[Lab]:
    """The JupyterLab in a page of its own; the test fails where the page complains of anything."""
    with checked_page(browser) as page:
        yield Lab(server, place / "runs", page)
