"""What the unit tests share."""

from __future__ import annotations

import secrets
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
    of_this_test = base / f"datasets-{secrets.token_hex(4)}"
    monkeypatch.setattr("prism_nb.data.index.default_runs_dir", lambda: of_this_test)


@pytest.fixture
def settings() -> Settings:
    """The quick preset's settings."""
    return load_settings("digits_quick")


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Run:
    """A run that has just begun."""
    return Run.create(tmp_path / "r", settings)
