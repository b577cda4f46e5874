"""What the commands of the Makefile promise, without carrying them out."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALLS_CHROMIUM = (
    'for last; do :; done; [ "$last" = chromium ] && /bin/cp "$0" "${0%/*}/chromium"'
)


def commands_of(target: str) -> list[str]:
    """Return the commands of one of the Makefile's targets."""
    text = (ROOT / "Makefile").read_text()
    (block,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in block.splitlines()]


def test_the_lab_listens_to_this_machine_alone_and_keeps_its_token() -> None:
    (command,) = commands_of("lab")
    program, what, *options = shlex.split(command)
    assert (program, what) == ("$(BIN)/jupyter", "lab")
    # Whatever else is here has to be judged: an address, an origin, an empty token or password.
    assert options == ["--ip=127.0.0.1", "--notebook-dir=notebooks"]


def test_tests_look_for_a_browser_first() -> None:
    assert commands_of("test")[0] == "@.ci/chromium"


def look_for_browser(folder: Path, **programs: str) -> "subprocess.CompletedProcess[str]":
    """Look for Chromium where nothing but some shell scripts can be found."""
    for name, script in {"timeout": 'shift; "$@"', **programs}.items():
        path = folder / name.replace("_", "-")
        path.write_text(f'#!/bin/sh\necho {path.name} "$@" >>{folder}/calls\n{script}\n')
        path.chmod(0o755)
    return subprocess.run(
        [ROOT / ".ci" / "chromium"],
        env={"PATH": str(folder), "HOME": os.environ.get("HOME", "/")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["chromium", "chromium_browser", "google_chrome"])
def test_a_browser_that_is_there_is_enough(tmp_path: Path, name: str) -> None:
    looked = look_for_browser(tmp_path, **{name: "", "apt_get": "", "id": "echo 0"})
    assert looked.stdout == looked.stderr == ""
    assert not (tmp_path / "calls").exists()


def test_root_gets_chromium_from_apt(tmp_path: Path) -> None:
    looked = look_for_browser(tmp_path, apt_get=INSTALLS_CHROMIUM, id="echo 0")
    assert looked.stdout == "Installing Chromium for the browser tests ...\n"
    assert (tmp_path / "chromium").is_file()


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({}, "there is no Chromium, and no apt-get to install it"),
        ({"apt_get": "", "id": "echo 1000"}, "there is no Chromium; as root: apt-get install"),
        ({"apt_get": "exit 100", "id": "echo 0"}, "apt-get could not install chromium"),
    ],
)
def test_where_nothing_can_be_installed_the_tests_go_on(
    tmp_path: Path, programs: dict[str, str], words: str
) -> None:
    looked = look_for_browser(tmp_path, **programs)
    assert f"The browser tests will be skipped: {words}" in looked.stdout
    assert looked.stderr == ""
