"""Calls of the command `prism-nb` in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from prism_nb import cli


@dataclass(frozen=True)
class Result:
    """Exit code and output of a call."""

    code: object
    out: str
    err: str


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> Result:
    monkeypatch.setattr(sys, "argv", ["prism-nb", *map(str, arguments)])
    code: object = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code
    return Result(code, *capsys.readouterr())
