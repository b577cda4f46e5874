"""README and documentation: size, links, commands and the page of settings."""

import re
import shlex
from pathlib import Path

import click
import pytest

from prism_nb.cli import cli
from prism_nb.core.presets import presets as presets_of_the_clone
from prism_nb.core.settings import Settings
from tests.helpers.settings_page import PAGE, settings_page

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of every `prism-nb` call on a page, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"```[^\n]*\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    lines += re.findall(r"`(prism-nb [^`]+)`", text)
    calls = [line.strip() for line in lines if line.strip().startswith("prism-nb ")]
    return [shlex.split(call, comments=True)[1:] for call in calls]


def test_the_readme_is_one_page() -> None:
    assert (ROOT / "README.md").stat().st_size <= 10_000


@by_name
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@by_name
def test_commands_exist(page: Path) -> None:
    for arguments in commands(page):
        name, *rest = arguments
        if name.startswith("-"):
            continue
        command = cli.commands[name]
        options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
        for argument in rest:
            if argument.startswith("--"):
                assert argument.partition("=")[0] in options, (page.name, arguments)
        for setting in re.findall(r"--set '?\"?(\w+)=", shlex.join(arguments)):
            assert setting in Settings.fields(), (page.name, setting)
        presets = {"run", "plan"} & {name}
        if presets and rest and not rest[0].startswith("-") and rest[0].isidentifier():
            assert rest[0] in {*presets_of_the_clone().names(), "PRESET", "RUN"}, arguments


@by_name
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M):
        assert target in targets, target


def test_the_page_of_settings_follows_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: make docs"
