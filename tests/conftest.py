"""Settings of every test, in this process and in those that it starts."""

import os

# Workers that run side by side must not each take every core; set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray reads this as it is imported, which a test of something else may be the first to do.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# No test may reach for weights in the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


from pathlib import Path

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings


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
