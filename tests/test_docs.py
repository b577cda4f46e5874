"""README and documentation: size, links, commands and the page of settings."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest

from prism_nb.cli import cli
from prism_nb.core.config import load_settings, parse_assignments
from prism_nb.core.presets import presets
from prism_nb.core.settings import Settings
from tests.helpers.settings_page import PAGE, settings_page

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every `prism-nb` call on a page, without comments."""
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(prism-nb [^`]+)`", text)
    calls = [line for line in lines if line.startswith("prism-nb ")]
    return [shlex.split(call, comments=True)[1:] for call in calls]


def test_the_readme_is_one_page() -> None:
    assert (ROOT / "README.md").stat().st_size <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_commands_and_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target
    for name, *rest in commands(text):
        if name.startswith("-"):
            continue
        params = cli.commands[name].params
        options = {o for p in params if isinstance(p, click.Option) for o in p.opts}
        used = {argument.partition("=")[0] for argument in rest if argument.startswith("--")}
        assert used <= options, (name, rest)
        for setting in re.findall(r"--set '?\"?(\w+)=", shlex.join(rest)):
            assert setting in Settings.fields(), setting
        if name in {"run", "plan"} and rest and rest[0].isidentifier():
            assert rest[0] in {*presets().names(), "PRESET", "RUN"}, rest


def test_what_the_readme_sets_is_not_set_already() -> None:
    found = 0
    for _, *rest in commands((ROOT / "README.md").read_text(encoding="utf-8")):
        changes = [value for option, value in pairwise(rest) if option == "--set"]
        if changes and rest[0] in presets().names():
            changed = load_settings(rest[0], parse_assignments(changes))
            assert changed != load_settings(rest[0]), rest
            found += 1
    assert found


def test_the_page_of_settings_follows_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: make docs"


def test_the_lab_listens_to_this_machine_alone_and_keeps_its_token() -> None:
    (options,) = re.findall(r"/jupyter lab (.*)", MAKEFILE)
    # Any other option needs a review: an address, an origin, an empty token or password.
    assert options == "--ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb"
