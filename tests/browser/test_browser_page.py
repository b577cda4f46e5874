"""Negative controls: complaints of a page and content that does not fit are found."""

from typing import Any

import pytest

from tests.helpers.browser_page import checked_page, cut_off, unnamed

FAIL = "new Promise(done => setTimeout(() => { setTimeout(done); throw Error('failed') }))"
LONG = '<div style="width: 400px">long</div>'


@pytest.mark.parametrize(
    ("script", "complaint"),
    [("console.error('broken')", "console: broken"), (FAIL, "script: failed")],
)
def test_complaints_of_a_page_fail(browser: Any, script: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint), checked_page(browser) as page:
        page.evaluate(script)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (LONG, ["wider than its place: long"]),
        (f'<div style="overflow: hidden">{LONG}</div>', ["hidden in part: long"]),
        (f'<div style="overflow-x: auto">{LONG}</div>', []),
        (
            '<svg class="main-svg" width="100" height="20"><text x="90" y="15">label</text></svg>',
            ["outside its figure: label"],
        ),
    ],
)
def test_what_does_not_fit_is_named(browser: Any, content: str, found: list[str]) -> None:
    area = '<div class="jp-OutputArea-output" style="width: 300px; overflow-x: auto">{}</div>'
    with checked_page(browser) as page:
        page.set_content(area.format(content))
        assert cut_off(page) == found


@pytest.mark.parametrize(
    ("control", "named"),
    [
        ('<img width="9">', '<img width="9" alt="">'),
        ("<button></button>", "<button>Go</button>"),
        ("<input>", "<label>Filter <input></label>"),
        ('<div tabindex="0" role="slider"></div>', '<div role="slider" aria-label="Step"></div>'),
    ],
)
def test_what_has_no_name_is_shown(browser: Any, control: str, named: str) -> None:
    with checked_page(browser) as page:
        page.set_content(f"<main>{control}{named}</main>")
        assert unnamed(page) == [control]
