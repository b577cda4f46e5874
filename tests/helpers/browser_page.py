"""Chromium, and pages whose complaints fail the test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
WINDOW = {"width": 1280, "height": 1000}
# Content wider than its output area, or hidden by a box around it, and labels outside a figure.
# Boxes one pixel wide are for screen readers. A box that was made to scroll hides nothing; those
# of ipywidgets scroll by themselves, and their content has to fit.
CUT_OFF = """
() => {
  const found = [];
  const add = (what, e) => found.push(`${what}: ${e.textContent.trim().slice(0, 80)}`);
  const tooWide = (e) => e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1;
  const hides = (e) => e.matches(".widget-box") ||
    ["hidden", "clip"].includes(getComputedStyle(e).overflowX);
  const outside = (inner, outer) => inner.width > 0 &&
    (inner.left < outer.left - 1 || inner.right > outer.right + 1);
  for (const area of document.querySelectorAll(".jp-OutputArea-output")) {
    if (tooWide(area)) add("wider than its place", area);
    for (const e of area.querySelectorAll("*"))
      if (e instanceof HTMLElement && tooWide(e) && hides(e)) add("hidden in part", e);
    for (const drawing of area.querySelectorAll("svg.main-svg"))
      for (const label of drawing.querySelectorAll("text"))
        if (outside(label.getBoundingClientRect(), drawing.getBoundingClientRect()))
          add("outside its figure", label);
  }
  return found;
}
"""
# Pictures and controls of outputs and pages that say nothing to a screen reader.
UNNAMED = """
() => {
  const named = (e) => e.getAttribute("alt") !== null && e.tagName === "IMG" || e.title ||
    e.ariaLabel || e.getAttribute("aria-labelledby") || e.labels?.length || e.textContent.trim();
  const kinds = "img, button, select, input, textarea, iframe, [role=slider], [tabindex='0']";
  return [...document.querySelectorAll(`:is(.jp-OutputArea-output, body > main) :is(${kinds})`)]
    .filter((e) => e.clientWidth > 1 && !named(e)).map((e) => e.outerHTML.slice(0, 120));
}
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def checked_page(browser: Any, **options: Any) -> Iterator[Any]:
    """Open a page in a profile of its own, 1280 pixels wide.

    Args:
        browser: The browser of `chromium`.
        options: Further options of Playwright's contexts, such as `offline`.

    Raises:
        AssertionError: At the end, if a script failed, the console has an error, or a request was
            answered with status 400 or above.
    """
    context = browser.new_context(viewport=WINDOW, **options)
    with watched(context.new_page()) as page:
        yield page
        context.close()


@contextmanager
def watched(page: Any) -> Iterator[Any]:
    """Collect the complaints of a page, and fail at the end if there are any."""
    found = list[str]()

    def add_console(message: Any) -> None:
        if message.type == "error":
            found.append(f"console: {message.text}")

    def add_response(response: Any) -> None:
        if response.status >= 400:
            found.append(f"{response.status}: {response.url}")

    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("console", add_console)
    page.on("response", add_response)
    yield page
    assert not found, "\n".join(found)


def unnamed(page: Any) -> list[str]:
    """Return the HTML of pictures and controls without a name for screen readers."""
    found: list[str] = page.evaluate(UNNAMED)
    return found


def cut_off(page: Any) -> list[str]:
    """Return descriptions of notebook outputs that do not fit the page."""
    found: list[str] = page.evaluate(CUT_OFF)
    return found
