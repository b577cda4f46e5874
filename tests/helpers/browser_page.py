"""Chromium, and pages whose complaints nobody overlooks."""

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
# of ipywidgets scroll unasked, and their content has to fit.
CUT_OFF = """
() => {
  const found = [];
  const say = (what, e) => found.push(`${what}: ${e.textContent.trim().slice(0, 80)}`);
  const tooWide = (e) => e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1;
  const hides = (e) => e.matches(".widget-box") ||
    ["hidden", "clip"].includes(getComputedStyle(e).overflowX);
  const outside = (inner, outer) => inner.width > 0 &&
    (inner.left < outer.left - 1 || inner.right > outer.right + 1);
  for (const area of document.querySelectorAll(".jp-OutputArea-output")) {
    if (tooWide(area)) say("wider than its place", area);
    for (const e of area.querySelectorAll("*"))
      if (e instanceof HTMLElement && tooWide(e) && hides(e)) say("hidden in part", e);
    for (const drawing of area.querySelectorAll("svg.main-svg"))
      for (const label of drawing.querySelectorAll("text"))
        if (outside(label.getBoundingClientRect(), drawing.getBoundingClientRect()))
          say("outside its figure", label);
  }
  return found;
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
def watched_page(browser: Any, **options: Any) -> Iterator[Any]:
    """Open a page in a profile of its own, 1280 pixels wide.

    Args:
        browser: What `chromium` gives.
        options: Further ones of Playwright's contexts, such as `offline`.

    Raises:
        AssertionError: At the end, where a script failed, the console named an error, or an
            answer was none (status 400 and above).
    """
    context = browser.new_context(viewport=WINDOW, **options)
    page = context.new_page()
    complaints = complaints_of(page)
    yield page
    context.close()
    assert not complaints, "\n".join(complaints)


def complaints_of(page: Any) -> list[str]:
    """Return a list that grows by whatever a page complains of."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on(
        "console",
        lambda said: found.append(f"console: {said.text}") if said.type == "error" else None,
    )
    page.on(
        "response",
        lambda got: found.append(f"{got.status}: {got.url}") if got.status >= 400 else None,
    )
    return found


def cut_off(page: Any) -> list[str]:
    """Return what of a notebook's outputs does not fit the page, in words."""
    found: list[str] = page.evaluate(CUT_OFF)
    return found
