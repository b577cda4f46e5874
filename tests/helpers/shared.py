"""Results that take minutes, made once and shared by the workers of pytest-xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tests.helpers.command import execute

# Two searches of two points, and two scenarios of two replicates.
STUDY: dict[str, Any] = {
    "title": "Small <study>",
    "preset": "digits_quick",
    "settings": {
        "teachers": ["test_resnet", "test_byobnet"],
        "holdout_networks": [],
        "feature_networks": ["test_byobnet"],
        "squeeze_epochs": 1,
        "methods": ["gvbsm", "prism", "random_real"],
        "recipe": {"iterations": 6, "conv_patch_size": 4},
        "ipc": 2,
        "label_epochs": 2,
        "students": ["test_resnet"],
        "student_seeds": 1,
    },
    "searches": {"one": {"grid": {"lr": [0.05, 0.2]}}},
    "scenarios": {"tuned": {"title": "Tuned", "tuned_by": "one"}, "plain": {"title": "Plain"}},
    "replicates": 2,
}


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder with what `make` writes; the worker that asks first makes it.

    Tests copy what they change.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def make_run(runs: Path) -> None:
    """Take a run `digits` of the quick preset through its notebooks; keep the command's output."""
    result = execute("prism-nb", "run", "digits_quick", "--run", "digits", runs=runs)
    assert result.returncode == 0, result.stdout + result.stderr
    (runs / "output.txt").write_text(result.stdout)


def make_study(runs: Path) -> None:
    """Carry out the small study `small`."""
    (runs / "small.yaml").write_text(yaml.safe_dump(STUDY))
    # One worker: the other core has its own tests, and every worker imports torch anew.
    result = execute("prism-nb", "study", "small.yaml", "--workers", 1, runs=runs)
    assert result.returncode == 0, result.stdout + result.stderr
