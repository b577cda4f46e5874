"""Speed of commands, a notebook and its map of 2,000 images: `python -m tests.browser.speed`.

The images are real digits, half of them of a method, of a run that is made first. Medians of three.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import report, seconds_of
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run
from tests.helpers.command import execute
from tests.helpers.jupyter_lab import ROOT, Lab, opened_lab, set_parameters

IMAGES = {
    "teachers": ["test_resnet"],
    "holdout_networks": ["test_byobnet"],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["random_real"],
    "ipc": 100,
    "students": [],
}


def main() -> None:
    """Make the run, measure, and write benchmarks/results/instrument.json."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        runs = place / "runs"
        run = open_run(run_name="r", preset="digits_quick", runs_dir=runs, changes=IMAGES)
        for stage in ("squeeze", "synthesis", "diversity"):
            pipeline.execute(run, stage)
        rows = [
            row(f"prism-nb {words[0]}", partial(execute, "prism-nb", *words, runs=runs))
            for words in (["runs"], ["status", "r"])
        ]
        notebooks = shutil.copytree(ROOT / "notebooks", place / "notebooks")
        set_parameters(notebooks / "03_diversity.ipynb", run_name="r", preset=None)
        with opened_lab(place) as lab:
            rows.append(row("notebook 03 to its first figure", lambda: first_figure(lab)))
            rows += map_rows(lab)
    report("instrument", rows)


def row(
    what: str, action: Callable[[], object], before: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Return the median seconds of an action, without what comes before it each time."""
    seconds = []
    for _ in range(3):
        before()
        seconds.append(seconds_of(action))
    return {"what": what, "seconds": statistics.median(seconds)}


def first_figure(lab: Lab) -> None:
    """Open the notebook with a new kernel, and run it until a figure is drawn."""
    lab.open("03_diversity")
    lab.command("notebook:clear-all-cell-outputs")
    lab.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    lab.page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=120_000)


def map_rows(lab: Lab) -> list[dict[str, Any]]:
    """Choose all images of the dashboard's map by a lasso, and inspect one."""
    page = lab.page
    tab = page.get_by_role("button", name="Map", exact=True)
    tab.wait_for(timeout=240_000)
    tab.click()
    widget = page.locator(".jp-OutputArea-output:has(button:text('Curve over classes'))").first
    widget.get_by_label("Classes", exact=True).fill("all classes")
    page.keyboard.press("Enter")
    frame = page.frame_locator("iframe[title^='PCA of 2000 images']")
    tiles, hint, area = (
        frame.locator(selector) for selector in ("#tray .tile", "#hint", ".nsewdrag")
    )
    tiles.first.wait_for(timeout=120_000)
    area.first.scroll_into_view_if_needed()
    box = area.first.bounding_box()
    left, right = box["x"] + 2, box["x"] + box["width"] - 2
    top, bottom = box["y"] + 2, box["y"] + box["height"] - 2

    def draw() -> None:
        frame.locator("#figure").evaluate("figure => figure.emit('plotly_deselect')")
        hint.filter(has_text="All ").wait_for()
        page.mouse.move(left, top)
        page.mouse.down()
        for x, y in ((right, top), (right, bottom), (left, bottom), (left, top + 5)):
            page.mouse.move(x, y, steps=5)

    def release() -> None:
        page.mouse.up()
        hint.filter(has_text="Chosen: ").wait_for()
        tiles.nth(499).wait_for()

    def inspect() -> None:
        tiles.first.focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog", name="Image inspector").wait_for()

    return [
        row("a lasso's images, of 2,000", release, draw),
        row("an image in the inspector", inspect, lambda: page.keyboard.press("Escape")),
    ]


if __name__ == "__main__":
    main()
