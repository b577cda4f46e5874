"""Environment and fixtures of all tests."""

import os

# Parallel workers must not each use every core; set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray reads this when it is imported, which any test may do first.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# No test may download weights.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


from pathlib import Path

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from tests.helpers.shared import make_run, make_study, shared_folder

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests by their folders, and run them first, so that no worker ends alone."""
    slow = []
    for item in items:
        folder, *_ = item.path.relative_to(TESTS).parts
        if folder in ("notebooks", "browser", "cluster"):
            item.add_marker(folder)
            slow.append(item)
    items.sort(key=lambda item: item not in slow)


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep the tests apart from the user's own clone, runs and caches."""
    monkeypatch.delenv("PRISM_HOME", raising=False)
    monkeypatch.delenv("PRISM_RUNS", raising=False)
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("PRISM_CACHE", str(base / "cache"))


@pytest.fixture
def settings() -> Settings:
    """The quick preset's settings."""
    return load_settings("digits_quick")


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Run:
    """A run that has just begun."""
    return Run.create(tmp_path / "r", settings)


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `digits`, of the quick preset; copy it before changing it."""
    return shared_folder(tmp_path_factory, "finished", make_run)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study `small`, and its file; copy it before changing it."""
    return shared_folder(tmp_path_factory, "study", make_study)
