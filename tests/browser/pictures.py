"""The README's pictures, from the demo's run: `make pictures`, once `make demo` has ended."""

import shutil
import sys
import tempfile
from pathlib import Path

from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run
from prism_nb.viz.movie import write_movie
from tests.helpers.jupyter_lab import ROOT, Lab, opened_lab, set_parameters, write_lab_settings

DEMO = ROOT / "data" / "runs" / "digits"
PICTURES = ROOT / "docs" / "pictures"
GROWING = "growing"  # a run of the demo's settings, which takes its teachers over


def main() -> None:
    """Take the pictures anew."""
    if not (DEMO / "figures" / "report.html").is_file():
        sys.exit(f"no finished demo in {DEMO}: run `make demo` first")
    PICTURES.mkdir(parents=True, exist_ok=True)
    write_movie(Run.open(DEMO), "", PICTURES / "growth.webp")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(DEMO, place / "runs" / "digits")
        notebooks = shutil.copytree(ROOT / "notebooks", place / "notebooks")
        set_parameters(notebooks / "01_teacher_pool.ipynb", run_name="digits", preset="digits")
        set_parameters(notebooks / "02_synthesis.ipynb", run_name=GROWING, preset="digits")
        set_parameters(notebooks / "03_diversity.ipynb", run_name="digits", preset="digits")
        # Cells out of sight stay in the page.
        write_lab_settings(place, "notebook/tracker", windowingMode="none")
        with opened_lab(place) as lab:
            lab.page.set_viewport_size({"width": 1280, "height": 2400})
            picker(lab)
            growing(lab, place / "runs")
            dashboard(lab)


def picker(lab: Lab) -> None:
    """The teacher picker, comparing the demo's networks."""
    page = lab.page
    lab.open("01_teacher_pool")
    lab.run_all()
    page.wait_for_selector("text=units are complete and undamaged", timeout=240_000)
    picker = page.locator(".prism-picker")
    picker.get_by_role("button", name="Compare").click()
    page.wait_for_selector("text=Linear CKA of features", timeout=120_000)
    page.wait_for_timeout(1000)
    picker.screenshot(path=PICTURES / "picker.png")


def growing(lab: Lab, runs: Path) -> None:
    """The run monitor in the middle of a unit."""
    run = open_run(run_name=GROWING, preset="digits", runs_dir=runs)
    pipeline.execute(run, "squeeze")
    page = lab.page
    lab.open("02_synthesis")
    lab.run_up_to("display(nb.monitor(run))")
    page.get_by_role("button", name="Start", exact=True).click(timeout=120_000)
    page.wait_for_selector("text=/1 of [0-9]+ units done/", timeout=300_000)
    page.wait_for_selector("text=/, step [1-9][0-9]{2,} of/", timeout=300_000)
    monitor = page.locator(".jp-OutputArea-output:has(button:text('Stop'))").first
    monitor.screenshot(path=PICTURES / "growing.png")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Stopped.", timeout=120_000)


def dashboard(lab: Lab) -> None:
    """The diversity dashboard's map of the demo's images."""
    page = lab.page
    lab.open("03_diversity")
    lab.run_all()
    page.wait_for_selector("text=Curve over classes", timeout=240_000)
    page.get_by_role("button", name="Map", exact=True).click()
    frame = page.frame_locator("iframe[title^='PCA of']")
    frame.locator(".js-plotly-plot").wait_for(timeout=120_000)
    frame.locator("#tray .tile").first.wait_for()
    page.wait_for_timeout(1000)
    widget = page.locator(".jp-OutputArea-output:has(button:text('Curve over classes'))").first
    widget.screenshot(path=PICTURES / "dashboard.png")


if __name__ == "__main__":
    main()
