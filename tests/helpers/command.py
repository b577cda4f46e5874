"""Calls of the command `prism-nb`, in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from prism_nb import cli

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Result:
    """Exit code and output of a call."""

    code: object
    out: str
    err: str


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> Result:
    """Call `prism-nb` in this process."""
    monkeypatch.setattr(sys, "argv", ["prism-nb", *map(str, arguments)])
    code: object = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code
    return Result(code, *capsys.readouterr())


def environment(runs: Path) -> dict[str, str]:
    """Return variables with which commands use a folder's runs, and this clone."""
    return {**os.environ, "PRISM_RUNS": str(runs), "PRISM_HOME": str(ROOT)}


def execute(program: str, *arguments: object, runs: Path) -> subprocess.CompletedProcess[str]:
    """Execute a program of the environment, such as `prism-nb`, in a folder of runs."""
    return subprocess.run(
        [str(BIN / program), *map(str, arguments)],
        env=environment(runs),
        cwd=runs,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
