"""Fixtures of the tests that drive a browser."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.browser_page import CHROMIUM
from tests.helpers.jupyter_lab import ROOT, Lab, opened_lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where there is no browser."""
    for item in items:
        if CHROMIUM is None and Path(__file__).parent in item.path.parents:
            reason = "no Chromium here: apt-get install chromium"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A JupyterLab with no runs; the test fails where the browser complains of anything."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    with opened_lab(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `digits`, of the quick preset; copy it before changing anything.

    Workers of pytest-xdist share it: whichever asks first makes it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    runs = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not (runs / "digits" / "figures" / "report.html").is_file():
            finish_quick_run(runs)
    return runs


def finish_quick_run(runs: Path) -> None:
    """Take a run through all of its notebooks."""
    command = [sys.executable, "-m", "prism_nb", "run", "digits_quick", "--run", "digits"]
    environment = {**os.environ, "PRISM_RUNS": str(runs), "PRISM_HOME": str(ROOT)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
