"""Whatever a page complains of fails the test that looks at it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.browser_page import chromium, cut_off, watched_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with chromium() as opened:
        yield opened


def ask_for_what_is_missing(page: Any) -> None:
    page.route("http://nowhere/", lambda route: route.fulfill(status=404, body="nothing"))
    page.goto("http://nowhere/")


BAD: dict[str, Callable[[Any], Any]] = {
    "console: it is broken": lambda page: page.evaluate("console.error('it is broken')"),
    "script: it has failed": lambda page: page.evaluate(
        "new Promise(done => setTimeout(() => { setTimeout(done); throw Error('it has failed') }))"
    ),
    "404: http://nowhere/": ask_for_what_is_missing,
}


@pytest.mark.parametrize("words", BAD)
def test_complaints_of_a_page_fail(browser: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words), watched_page(browser) as page:
        BAD[words](page)


def test_a_page_that_only_warns_passes(browser: Any) -> None:
    with watched_page(browser) as page:
        page.evaluate("console.warn('beware'); console.log('a word')")


OUTPUT = '<div class="jp-OutputArea-output" style="width: 300px; overflow-x: auto">{}</div>'
LONG = '<div style="width: 400px">long</div>'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LONG, ["wider than its place: long"]),
        (f'<div style="overflow: hidden">{LONG}</div>', ["hidden in part: long"]),
        (f'<div style="overflow-x: auto">{LONG}</div>', []),
        (
            f'<div class="widget-box" style="overflow: auto">{LONG}</div>',
            ["hidden in part: long"],
        ),
        (
            '<svg class="main-svg" width="100" height="20"><text x="90" y="15">label</text></svg>',
            ["outside its figure: label"],
        ),
        ("short", []),
    ],
)
def test_what_does_not_fit_is_named(browser: Any, content: str, words: list[str]) -> None:
    with watched_page(browser) as page:
        page.set_content(OUTPUT.format(content))
        assert cut_off(page) == words
