"""The Makefile's targets, read without running them, and the search for a browser."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def commands_of(target: str) -> list[str]:
    """Return the commands of one of the Makefile's targets."""
    text = (ROOT / "Makefile").read_text()
    (block,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in block.splitlines()]


def test_the_lab_listens_to_this_machine_alone_and_keeps_its_token() -> None:
    (command,) = commands_of("lab")
    program, what, *options = shlex.split(command)
    assert (program, what) == ("$(BIN)/jupyter", "lab")
    # Any other option needs a review: an address, an origin, an empty token or password.
    assert options == ["--ip=127.0.0.1", "--notebook-dir=notebooks"]


def test_fast_tests_leave_out_every_slow_folder() -> None:
    (command,) = commands_of("test-unit")
    expression = shlex.split(command)[-1]
    assert re.findall(r"not (\w+)", expression) == ["notebooks", "browser", "cluster"]
    assert commands_of("test")[0] == "@.ci/chromium"


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ({"chromium": ""}, ""),
        ({}, "there is no Chromium, and no apt-get to install it"),
        ({"apt-get": "", "id": "echo 1000"}, "there is no Chromium; as root: apt-get install"),
        ({"apt-get": "exit 100", "id": "echo 0"}, "apt-get could not install chromium"),
    ],
)
def test_the_search_for_a_browser_never_fails(
    tmp_path: Path, programs: dict[str, str], message: str
) -> None:
    for name, script in {"timeout": 'shift; "$@"', **programs}.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    found = subprocess.run(
        [ROOT / ".ci" / "chromium"],
        env={"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert message in found.stdout
    assert bool(message) == bool(found.stdout)
    assert found.stderr == ""
